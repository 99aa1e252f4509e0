"""Words with tags through every phase and the evaluation, as a user calls them."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from prumux import UserError
from prumux.evaluation.report import Settings, evaluate_checkpoint, report_path
from prumux.training.phases import run

FLAGS = (
    "--task_name ner --max_steps 60 --per_device_train_batch_size 16 --learning_rate 5e-3 --warmup_steps 5 "
    "--eval_strategy no --save_strategy no --disable_tqdm True --do_train --do_eval"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CoNLL files in which every noun is an entity of its own kind, and a tiny architecture."""
    folder = tmp_path_factory.mktemp("ner")
    draw = random.Random(0)
    for split, count in (("train", 240), ("dev", 40)):
        lines = []
        for _ in range(count):
            lines += [f"{draw.choice(['the', 'a'])}\tO", f"{draw.choice(['good', 'bad', 'funny'])}\tO"]
            noun = draw.choice(["plot", "cast"])
            lines += [f"{noun}\tB-{noun.upper()}", "was\tO", ""]
        (folder / f"{split}.conll").write_text("\n".join(lines), encoding="utf-8")
    shape = {
        "vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 40,
    }  # fmt: skip
    (folder / "shape.json").write_text(json.dumps(shape))
    from prumux.data.toy import toy_tokenizer

    toy_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """A dense model, one of N=2, that one pruned and finetuned again: their records by name."""

    def go(name: str, *flags: str) -> dict:
        return run([*FLAGS, "--data_dir", str(folder), *flags, "--output_dir", str(folder / name)])

    shape = ["--config_name", str(folder / "shape.json"), "--tokenizer_name", str(folder / "tokenizer")]
    two = ["--num_instances", "2"]
    mux = str(folder / "mux" / "best")
    pruned = [*two, "--model_path", str(folder / "pruned" / "best"), "--teacher", mux]
    return {
        "dense": go("dense", "--setting", "baseline", *shape),
        "mux": go("mux", *shape, *two),
        "pruned": go("pruned", "--setting", "pruning", *two, "--model_path", mux, "--target_sparsity", "0.5"),
        "finetuned": go("finetuned", *pruned),
    }


def test_every_phase_learns_entities(trained):
    assert trained["dense"]["main_metric"] == "f1"
    assert trained["dense"]["metrics"]["f1"] == 1.0
    assert trained["mux"]["metrics"]["f1"] > 0.5
    assert trained["pruned"]["sparsity"] == pytest.approx(0.5, abs=0.03)
    assert trained["finetuned"]["sparsity"] == trained["pruned"]["sparsity"]
    assert set(trained["mux"]["metrics"]) >= {"f1", "precision", "recall", "token_accuracy"}


def test_a_dense_teacher_of_tags(trained, folder):
    """The default recipe's way: from narrow copies side by side, every token's state and tags from the dense model."""
    dense = str(folder / "dense" / "best")
    record = run([
        *FLAGS, "--data_dir", str(folder), "--model_path", dense, "--teacher", dense, "--num_instances", "2",
        "--separate_instances", "--muxing_variant", "binary_hadamard", "--binary_hadamard_epsilon", "0",
        "--distill_ce_loss_alpha", "1", "--logging_steps", "10", "--output_dir", str(folder / "taught"),
    ])  # fmt: skip
    assert record["metrics"]["f1"] > 0.5
    assert "state_distillation" in next(entry for entry in record["history"] if "loss" in entry)


@pytest.mark.parametrize("engine", ["fast", "eager"])
def test_evaluation(trained, folder, engine, monkeypatch):
    """Entity F1 and speed of tokens beside a dense token classifier; the engine agrees with the plain model."""
    from prumux.evaluation import report

    monkeypatch.setattr(
        report, "compile_for_inference",
        lambda model, dtype, device, build=report.compile_for_inference: build(model, dtype, device, compile=False),
    )  # fmt: skip
    found = evaluate_checkpoint(
        "ner", None, None, Settings(batch_size=8, max_seq_length=32, engine=engine, repeats=1, dynamic_padding=True),
        model=str(folder / "finetuned" / "best"), output_dir=folder / "out", data_dir=str(folder),
    )  # fmt: skip
    dense, ours = found["rows"]
    assert (found["main_metric"], dense["model"]) == ("f1", "dense (random weights)")
    assert ours["score"] == pytest.approx(trained["finetuned"]["metrics"]["f1"])
    assert ours["speedup"] > 0


def test_an_ensemble_of_two(trained, folder):
    settings = Settings(batch_size=8, max_seq_length=32, engine="eager", repeats=1, ensemble=2)
    found = evaluate_checkpoint(
        "ner", None, None, settings, model=str(folder / "mux" / "best"), data_dir=str(folder),
        output_dir=folder / "out",
    )["rows"]  # fmt: skip
    assert [row["ensemble"] for row in found] == [1, 2]
    twice = evaluate_checkpoint(
        "ner", None, None, replace(settings, ensemble=1, average_groupings=2), model=str(folder / "mux" / "best"),
        data_dir=str(folder), output_dir=folder / "out",
    )  # fmt: skip
    assert [row["average_groupings"] for row in twice["rows"]] == [1, 2]
    assert report_path(twice).name == "evaluation.average_groupings_2.json"
    with pytest.raises(UserError, match="an ensemble of 3 does not fill 2 slots"):
        evaluate_checkpoint(
            "ner", None, None, Settings(ensemble=3, engine="eager"), model=str(folder / "mux" / "best"),
            data_dir=str(folder), output_dir=folder / "out",
        )  # fmt: skip


def test_data_that_lack_some_tags(trained, folder, tmp_path):
    """Tags that the data has none of compete in the score; a tag that the model lacks is named."""
    mux = folder / "mux" / "best"
    few = tmp_path / "few.conll"
    few.write_text(
        "the O\nplot B-PLOT\nwas O\n\na O\ncast O\n"
    )  # B-CAST is the model's answer, and wrong here
    found = evaluate_checkpoint(
        "few", None, None, Settings(batch_size=8, max_seq_length=32, engine="eager", repeats=1), model=str(mux),
        validation_file=str(few), output_dir=folder / "out",
    )["rows"][-1]  # fmt: skip
    assert found["metrics"]["precision"] <= 0.5
    flags = ["--setting", "finetuning", "--do_eval", "--model_path", str(mux), "--validation_file"]
    scored = run([*flags, str(few), "--task_name", "mine", "--output_dir", str(tmp_path / "out")])["metrics"]
    assert scored["token_accuracy"] == pytest.approx(found["metrics"]["token_accuracy"])
    few.write_text("the O\nplot B-FILM\n")
    with pytest.raises(
        UserError, match="has no tag B-FILM, only B-CAST, B-PLOT, O: name a model of this task"
    ):
        run([*flags, str(few), "--output_dir", str(tmp_path / "other")])
    with pytest.raises(UserError, match=r"toy labels whole texts, .* is another kind of model"):
        evaluate_checkpoint("toy", None, None, Settings(), model=str(mux), output_dir=folder / "out")


def test_own_files_go_on_through_run_glue(trained, folder, tmp_path):
    """Pruning a model of words starts from its folder, whatever the files are called."""
    own = tmp_path / "own.txt"
    own.write_text((folder / "dev.conll").read_text())
    record = run([
        "--setting", "pruning", "--do_train", "--task_name", "mine", "--train_file", str(own), "--validation_file",
        str(own), "--model_path", str(folder / "mux" / "best"), "--num_instances", "2", "--max_steps", "1",
        "--target_sparsity", "0.5", "--disable_tqdm", "True", "--output_dir", str(tmp_path / "run"),
    ])  # fmt: skip
    assert record["main_metric"] == "f1"


def test_a_sentence_task_is_not_for_run_ner(tmp_path):
    with pytest.raises(UserError, match=r"toy labels whole texts, not words: use run_glue\.py"):
        run(["--tag_words", "--task_name", "toy", "--do_train", "--output_dir", str(tmp_path)])


def test_a_dense_model_is_pruned_and_copied(folder, trained):
    """Without a pooler it is the classifier that reads the pruned stream."""
    dense = str(folder / "dense" / "best")
    flags = [*FLAGS, "--data_dir", str(folder), "--model_path", dense, "--teacher", dense, "--max_steps", "4"]
    pruned = run(
        [*flags, "--setting", "pruning", "--target_sparsity", "0.8", "--output_dir", str(folder / "one")]
    )
    assert pruned["sparsity"] == pytest.approx(0.8, abs=0.02)
    copies = ["--num_instances", "2", "--separate_instances", "--narrow_first", "--muxing_variant", "binary_hadamard",
              "--binary_hadamard_epsilon", "0", "--output_dir", str(folder / "copies")]  # fmt: skip
    assert run([*flags, *copies])["num_instances"] == 2
    assert (folder / "copies" / "narrow" / "run.json").is_file()
