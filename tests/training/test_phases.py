"""Every phase in miniature: what it leaves behind, what it skips, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from prumux import Masks, PrumuxConfig, PrumuxForSequenceClassification, UserError, compact
from prumux.data.toy import toy_tokenizer
from prumux.pruning.accounting import model_size
from prumux.pruning.distillation import LAYER_MAP
from prumux.pruning.scores import fisher_scores
from prumux.reports.store import read_lines
from prumux.training import structure
from prumux.training.distilled import Distilled
from prumux.training.distilling import DistillationTrainer
from prumux.training.folder import last_checkpoint
from prumux.training.parsing import parse_arguments
from prumux.training.phases import build_trainer, run
from prumux.training.teaching import Teaching

SMALL = (
    "--task_name toy --max_train_samples 48 --max_eval_samples 20 --max_steps 4 --per_device_train_batch_size 12 "
    "--eval_strategy steps --eval_steps 2 --save_strategy no --disable_tqdm True --do_train --do_eval"
).split()

NAMED = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}


@pytest.fixture
def shape(tmp_path):
    file = tmp_path / "shape.json"
    fields = {
        "vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
        "max_position_embeddings": 40,
    }  # fmt: skip
    file.write_text(json.dumps(fields))
    return str(file)


def test_from_warm_up_to_finetuned_pruned_model(shape, tmp_path):
    def go(name: str, *flags: str) -> dict:
        return run([*SMALL, "--num_instances", "2", *flags, "--output_dir", str(tmp_path / name)])

    def best(name: str) -> str:
        return str(tmp_path / name / "best")

    warm = go("warm", "--setting", "retrieval_pretraining", "--config_name", shape)
    assert warm["main_metric"] == "retrieval_accuracy"
    mlm = go("mlm", "--setting", "mlm_pretraining", "--model_path", best("warm"))
    assert mlm["main_metric"] == "negative_mlm_loss"
    go("mux", "--setting", "finetuning", "--model_path", best("mlm"), "--retrieval_loss_coeff", "0.1")
    pruned = go(
        "pruned", "--setting", "pruning", "--model_path", best("mux"), "--target_sparsity", "0.5",
        "--prepruning_finetune_epochs", "0.25", "--lagrangian_warmup_epochs", "0.25", "--sparsity_epsilon", "0.02",
    )  # fmt: skip
    assert abs(pruned["sparsity"] - 0.5) <= 0.02
    tuned = go("tuned", "--setting", "finetuning", "--model_path", best("pruned"), "--teacher", best("mux"),
               "--eval_on_start")  # fmt: skip
    assert tuned["sparsity"] == pruned["sparsity"]
    vectors = [
        AutoModelForSequenceClassification.from_pretrained(best(name)) for name in ("mux", "pruned", "tuned")
    ]
    assert not any(model.bert.multiplexer.vectors.requires_grad for model in vectors)
    kept = vectors[1].config.kept_hidden or list(range(16))
    assert torch.equal(vectors[2].bert.multiplexer.vectors, vectors[1].bert.multiplexer.vectors)
    assert vectors[1].bert.multiplexer.vectors.shape == (2, len(kept))
    with pytest.raises(UserError, match="num_instances 2, but 5 was asked for"):
        run([*SMALL, "--num_instances", "5", "--model_path", best("mux"),
             "--per_device_train_batch_size", "10", "--output_dir", str(tmp_path / "other")])  # fmt: skip


def test_a_finished_run_is_skipped_and_another_one_refused(shape, tmp_path):
    output = tmp_path / "dense"
    flags = [*SMALL, "--setting", "baseline", "--config_name", shape, "--output_dir", str(output)]
    first = run(flags)
    stamp = (output / "best" / "model.safetensors").stat().st_mtime_ns
    assert run(flags)["metrics"] == first["metrics"]
    assert (output / "best" / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match=r"holds a run with other arguments .*--overwrite_output_dir"):
        run([*flags, "--learning_rate", "1e-3"])
    again = run([*flags, "--learning_rate", "1e-3", "--overwrite_output_dir"])
    assert "--learning_rate 1e-3" in again["arguments"]


def test_the_same_command_gives_the_same_numbers(shape, tmp_path):
    flags = [*SMALL, "--setting", "baseline", "--config_name", shape, "--output_dir"]
    records = [run([*flags, str(tmp_path / name)]) for name in ("a", "b")]
    losses = [[entry.get("loss") or entry.get("eval_accuracy") for entry in r["history"]] for r in records]
    assert losses[0] == losses[1]


def test_evaluation_alone_leaves_no_record(shape, tmp_path):
    run([*SMALL, "--setting", "baseline", "--config_name", shape, "--output_dir", str(tmp_path / "dense")])
    evaluation = [flag for flag in SMALL if flag != "--do_train"]
    model = str(tmp_path / "dense" / "best")
    record = run([*evaluation, "--model_path", model, "--output_dir", str(tmp_path / "evaluated")])
    trained = json.loads((tmp_path / "dense" / "run.json").read_text())
    assert record["metrics"]["accuracy"] == trained["metrics"]["accuracy"]
    assert not any((tmp_path / "evaluated").iterdir())


def test_evaluating_another_model_leaves_the_trained_one_alone(shape, tmp_path):
    base = [*SMALL, "--setting", "baseline", "--config_name", shape]
    run([*base, "--output_dir", str(tmp_path / "one")])
    run([*base, "--seed", "3", "--learning_rate", "1e-3", "--output_dir", str(tmp_path / "two")])
    files = sorted((tmp_path / "one").rglob("*"))
    before = [file.read_bytes() for file in files if file.is_file()]
    evaluation = [flag for flag in SMALL if flag != "--do_train"]
    run([*evaluation, "--max_eval_samples", "3", "--model_path", str(tmp_path / "two" / "best"),
         "--output_dir", str(tmp_path / "one")])  # fmt: skip
    assert sorted((tmp_path / "one").rglob("*")) == files
    assert [file.read_bytes() for file in files if file.is_file()] == before


@pytest.mark.parametrize("epochs", ["2", "1.5", "0.75"])
def test_epochs_of_the_warm_up_are_epochs_of_the_data(shape, tmp_path, epochs):
    """48 rows in batches of 6: half an epoch is 4 steps, however long the training is."""
    run([*SMALL, "--setting", "baseline", "--config_name", shape, "--output_dir", str(tmp_path / "dense")])
    record = run([
        *SMALL, "--setting", "pruning", "--model_path", str(tmp_path / "dense" / "best"), "--output_dir",
        str(tmp_path / "pruned"), "--max_steps", "-1", "--num_train_epochs", epochs, "--eval_steps", "1",
        "--per_device_train_batch_size", "6", "--lagrangian_warmup_epochs", "0.5", "--target_sparsity", "0.5",
        "--sparsity_epsilon", "0.05",
    ])  # fmt: skip
    targets = {entry["step"]: entry["eval_target"] for entry in record["history"] if "eval_target" in entry}
    assert [targets[step] for step in (1, 2, 3, 4, 5)] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])


def test_pre_pruning_finetuning_must_leave_steps(shape, tmp_path):
    run([*SMALL, "--setting", "baseline", "--config_name", shape, "--output_dir", str(tmp_path / "dense")])
    pruning = ["--setting", "pruning", "--model_path", str(tmp_path / "dense" / "best")]
    with pytest.raises(UserError, match="prepruning_finetune_epochs 5 takes all 4 steps"):
        run([*SMALL, *pruning, "--prepruning_finetune_epochs", "5", "--output_dir", str(tmp_path / "p")])
    with pytest.raises(UserError, match="can't maximise"):
        run([*SMALL, *pruning, "--optim", "adafactor", "--output_dir", str(tmp_path / "p")])


def test_half_written_checkpoints_are_ignored(tmp_path):
    for step, content in ((5, "{}"), (10, '{"global_'), (15, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if content is not None:
            (folder / "trainer_state.json").write_text(content)
    assert last_checkpoint(tmp_path).name == "checkpoint-5"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5"]


def test_the_teacher_is_the_whole_loss_in_the_precision_of_the_run(shape, tmp_path):
    dense, mux = tmp_path / "dense", tmp_path / "mux"
    run([*SMALL, "--setting", "baseline", "--config_name", shape, "--output_dir", str(dense)])
    flags = [*SMALL, "--config_name", shape, "--num_instances", "2", "--teacher", str(dense / "best"),
             "--bf16", "--distill_states", "--retrieval_loss_coeff", "0.1", "--task_loss_coeff", "0.9",
             "--save_strategy", "steps", "--save_steps", "2", "--output_dir", str(mux)]  # fmt: skip
    trainer = build_trainer(parse_arguments(flags))
    assert isinstance(trainer, DistillationTrainer)
    seen = set()
    for module in (
        trainer.teaching.teacher.bert.encoder.layer[0].attention.self.query,
        *trainer.student.modules(),
    ):
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, given, output: seen.add(output.dtype))
    trainer.train()
    assert seen == {torch.bfloat16}
    assert (trainer.student.config.retrieval_loss_coeff, trainer.student.config.task_loss_coeff) == (0, 1)


def test_an_unmultiplexed_teacher_teaches_every_token(shape, tmp_path):
    """Finetuning and pruning a multiplexed model with a dense model's states, logits and the labels."""

    def go(name: str, *flags: str) -> dict:
        return run([*SMALL, "--logging_steps", "2", *flags, "--output_dir", str(tmp_path / name)])

    go("dense", "--setting", "baseline", "--config_name", shape)
    go("three", "--config_name", shape, "--num_instances", "3")
    teacher = ["--teacher", str(tmp_path / "dense" / "best"), "--distill_task_loss_alpha", "0.5"]
    mux = go("mux", "--config_name", shape, "--num_instances", "2", *teacher)
    logged = next(entry for entry in mux["history"] if "loss" in entry)
    expected = logged["state_distillation"] + 0.1 * logged["ce_distillation"] + 0.5 * logged["task"]
    assert logged["loss"] == pytest.approx(expected, rel=1e-3)
    start = ["--model_path", str(tmp_path / "mux" / "best"), "--num_instances", "2"]
    pruned = go("pruned", "--setting", "pruning", "--target_sparsity", "0.5", *start, *teacher)
    assert pruned["sparsity"] == pytest.approx(0.5, abs=0.03)
    assert {"state_distillation", "lagrangian"} <= set(next(e for e in pruned["history"] if "loss" in e))
    with pytest.raises(UserError, match=r"mixes 3 inputs, the student 2: .*or an unmultiplexed one"):
        go("wrong", *start, "--teacher", str(tmp_path / "three" / "best"))


def test_rows_with_other_words_are_shown_to_teacher_and_student(shape, tmp_path, monkeypatch):
    dense = tmp_path / "dense"
    run([*SMALL, "--setting", "baseline", "--config_name", shape, "--output_dir", str(dense)])
    flags = [*SMALL, "--config_name", shape, "--num_instances", "2", "--teacher", str(dense / "best")]
    taught, learned = [], []
    ask, learn = Teaching.__call__, Distilled.forward
    monkeypatch.setattr(Teaching, "__call__", lambda *a: taught.append(a[1]["input_ids"]) or ask(*a))
    monkeypatch.setattr(
        Distilled, "forward", lambda *a, **k: learned.append(a[1]["input_ids"]) or learn(*a, **k)
    )
    results = [
        run([*flags, "--replace_tokens", share, "--output_dir", str(tmp_path / name)])
        for name, share in (("plain", "0"), ("changed", "0.5"), ("again", "0.5"))
    ]
    assert all(torch.equal(a, b) for a, b in zip(taught, learned, strict=True))
    plain, changed, again = (taught[start : start + 4] for start in (0, 4, 8))
    assert all((a != b).any() for a, b in zip(plain, changed, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(changed, again, strict=True))
    assert results[1]["metrics"] == results[2]["metrics"]
    with pytest.raises(
        UserError, match=r"--replace_tokens is 0.5, expected 0 beside --distill_task_loss_alpha"
    ):
        run(
            [
                *flags,
                "--replace_tokens",
                "0.5",
                "--distill_task_loss_alpha",
                "1",
                "--output_dir",
                str(tmp_path / "no"),
            ]
        )


@pytest.mark.parametrize("criterion", ["l0", "gradient"])
def test_pruning_to_a_speedup(shape, tmp_path, criterion):
    run([*SMALL, "--config_name", shape, "--num_instances", "2", "--output_dir", str(tmp_path / "mux")])
    flags = [
        *SMALL, "--setting", "pruning", "--model_path", str(tmp_path / "mux" / "best"), "--target_speedup", "1.5",
        "--sparsity_epsilon", "0.1", "--pruning_criterion", criterion, "--lagrangian_warmup_epochs", "0.25",
        "--output_dir", str(tmp_path / "pruned"),
    ]  # fmt: skip
    record = run(flags)
    assert record["target_speedup"] == 1.5
    assert record["target_sparsity"] is None
    assert record["sparsity"] > 0.1
    table = tmp_path / "pruned" / "latency.json"
    before = table.stat().st_mtime_ns
    run([*flags, "--overwrite_output_dir"])  # measures anew, and keeps that for a run that is resumed
    assert table.stat().st_mtime_ns > before


@pytest.mark.parametrize("flags", ["--pruning_criterion gradient", "--initial_gates fisher"])
def test_other_criteria_reach_the_target(shape, tmp_path, flags):
    run([*SMALL, "--config_name", shape, "--num_instances", "2", "--output_dir", str(tmp_path / "mux")])
    record = run([
        *SMALL, "--setting", "pruning", "--model_path", str(tmp_path / "mux" / "best"), "--target_sparsity", "0.5",
        "--lagrangian_warmup_epochs", "0.25", *flags.split(), "--output_dir", str(tmp_path / "pruned"),
    ])  # fmt: skip
    assert record["sparsity"] == pytest.approx(0.5, abs=0.01)
    with pytest.raises(UserError, match="--pruning_type: pruning_type 'layer' names none of"):
        run([
            *SMALL, "--setting", "pruning", "--model_path", str(tmp_path / "mux" / "best"), *flags.split(),
            "--pruning_type", "layer", "--output_dir", str(tmp_path / "p"),
        ])  # fmt: skip


def test_the_first_layers_and_separated_instances_of_a_dense_model(shape, tmp_path):
    def go(name: str, *flags: str) -> dict:
        return run([*SMALL, "--logging_steps", "2", *flags, "--output_dir", str(tmp_path / name)])

    dense = str(tmp_path / "dense" / "best")
    go("dense", "--setting", "baseline", "--config_name", shape)
    half = go(
        "half", "--model_path", dense, "--num_hidden_layers", "1", "--teacher", dense, "--distill_states"
    )
    assert (
        AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "half" / "best"
        ).config.num_hidden_layers
        == 1
    )
    assert "state_distillation" in next(entry for entry in half["history"] if "loss" in entry)
    start = ["--model_path", dense, "--num_instances", "2", "--separate_instances", "--teacher", dense]
    go("mux", *start, "--muxing_variant", "binary_hadamard", "--binary_hadamard_epsilon", "0")
    with pytest.raises(UserError, match=r"--separate_instances: .* give --muxing_variant binary_hadamard"):
        go("wrong", *start)
    with pytest.raises(UserError, match="--separate_instances is how training starts"):
        run([flag for flag in (*SMALL, *start) if flag != "--do_train"])
    with pytest.raises(
        UserError, match="separate_instances is True, expected False with --setting mlm_pretraining"
    ):
        go("wrong", *start, "--setting", "mlm_pretraining")
    with pytest.raises(UserError, match="--distill_states needs an unmultiplexed teacher"):
        go("wrong", "--model_path", str(tmp_path / "mux" / "best"), "--distill_states", "--teacher",
           str(tmp_path / "mux" / "best"))  # fmt: skip
    with pytest.raises(UserError, match="encoder are not in it"):
        go("wrong", "--model_path", dense, "--num_hidden_layers", "9")


def test_fewer_rows_than_a_batch_score_units_too(shape, tmp_path, monkeypatch):
    dense = str(tmp_path / "dense" / "best")
    run([*SMALL, "--setting", "baseline", "--config_name", shape, "--output_dir", str(tmp_path / "dense")])
    looks = []

    def scored(gates, model, batches):
        fisher_scores(gates, model, batches)
        looks.append(int(gates.looks))

    monkeypatch.setattr(structure, "fisher_scores", scored)
    build_trainer(parse_arguments([
        *SMALL, "--model_path", dense, "--num_instances", "2", "--separate_instances", "--muxing_variant",
        "binary_hadamard", "--binary_hadamard_epsilon", "0", "--per_device_train_batch_size", "100",
    ]))  # fmt: skip
    assert looks == [1]


def test_the_head_may_learn_faster(shape, tmp_path):
    flags = [*SMALL, "--config_name", shape, "--num_instances", "2", "--head_learning_rate", "0.01",
             "--learning_rate", "0.001", "--output_dir", str(tmp_path / "mux")]  # fmt: skip
    trainer = build_trainer(parse_arguments(flags))
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    named = dict(trainer.student.named_parameters())
    assert rates[id(named["bert.demultiplexer.keys"])] == rates[id(named["classifier.weight"])] == 0.01
    assert rates[id(named["bert.encoder.layer.0.output.dense.weight"])] == 0.001
    assert len(rates) == len(named)


def test_gates_and_multipliers_have_rates_of_their_own(shape, tmp_path):
    run([*SMALL, "--setting", "baseline", "--config_name", shape, "--output_dir", str(tmp_path / "dense")])
    flags = [*SMALL, "--setting", "pruning", "--model_path", str(tmp_path / "dense" / "best"), "--target_sparsity",
             "0.5", "--reg_learning_rate", "0.05", "--output_dir", str(tmp_path / "pruned")]  # fmt: skip

    def rates(*more: str) -> list[float]:
        groups = build_trainer(parse_arguments([*flags, *more])).create_optimizer().param_groups
        return [group["lr"] for group in groups[-2:]]

    assert rates() == [0.05, 0.05]
    assert rates("--multiplier_learning_rate", "0.25") == [0.05, 0.25]


def test_finetuning_may_keep_the_model_it_starts_from(shape, tmp_path):
    flags = [*SMALL, "--eval_on_start", "--output_dir"]
    run([*flags, str(tmp_path / "dense"), "--setting", "baseline", "--config_name", shape])
    start = str(tmp_path / "dense" / "best")
    record = run([*flags, str(tmp_path / "spoilt"), "--model_path", start, "--num_instances", "1",
                  "--learning_rate", "1000"])  # fmt: skip
    assert record["metrics"]["step"] == 0, "training at such a rate makes nothing better"
    kept = PrumuxForSequenceClassification.from_pretrained(tmp_path / "spoilt" / "best").state_dict()
    before = PrumuxForSequenceClassification.from_pretrained(start).state_dict()
    assert all(torch.equal(kept[name], before[name]) for name in before)


def test_finetuning_goes_on_with_the_layer_map_of_the_pruning(shape, tmp_path):
    def go(name: str, *flags: str) -> str:
        run([*SMALL, *flags, "--output_dir", str(tmp_path / name)])
        return str(tmp_path / name / "best")

    dense = go("dense", "--config_name", shape)
    pruned = go("pruned", "--setting", "pruning", "--model_path", dense, "--target_sparsity", "0.5",
                "--lagrangian_warmup_epochs", "0.25", "--learning_rate", "1e-2")  # fmt: skip
    weight = load_file(f"{pruned}/{LAYER_MAP}")["weight"]
    left = PrumuxForSequenceClassification.from_pretrained(pruned).config.hidden_size
    assert weight.shape == (16, left)
    rights = {file.stat().st_mode for file in Path(pruned).iterdir()}
    assert len(rights) == 1  # whoever may read the configuration may read the weights
    flags = [*SMALL, "--setting", "finetuning", "--model_path", pruned, "--teacher"]

    def map_of(teacher: str) -> torch.Tensor:
        return build_trainer(parse_arguments([*flags, teacher])).distilled.layer_map.linear.weight

    assert torch.equal(map_of(dense), weight)
    assert torch.equal(map_of(pruned), torch.eye(left))  # one's own needs none


def test_what_attends_padding_is_trained_on_rows_of_the_whole_length(shape, tmp_path):
    flags = [
        *SMALL,
        "--config_name",
        shape,
        "--num_instances",
        "2",
        "--max_seq_length",
        "24",
        "--attend_padding",
    ]
    for attends, length in (("True", 24), ("False", None)):
        trainer = build_trainer(parse_arguments([*flags, attends]))
        assert trainer.data_collator.pad_to_length == length


def test_a_pruned_model_retrieves_nothing(shape, tmp_path):
    model = PrumuxForSequenceClassification(
        PrumuxConfig(**json.loads(Path(shape).read_text()), num_instances=2, **NAMED)
    )
    compact(model, Masks(head=torch.eye(2, 4))).save_pretrained(tmp_path / "pruned")
    flags = [*SMALL, "--model_path", str(tmp_path / "pruned"), "--num_instances", "2"]
    toy_tokenizer().save_pretrained(tmp_path / "pruned")
    trainer = build_trainer(parse_arguments([*flags, "--retrieval_loss_coeff", "0.1"]))
    assert trainer.student.config.retrieval_loss_coeff == 0


@pytest.mark.parametrize("criterion", ["l0", "gradient"])
def test_one_run_through_several_sparsities(shape, tmp_path, monkeypatch, criterion):
    """Each target leaves a compacted model of its own and a line in the store; the last one's is the run's best."""
    run([*SMALL, "--config_name", shape, "--num_instances", "2", "--output_dir", str(tmp_path / "mux")])
    flags = [
        *SMALL,
        "--setting",
        "pruning",
        "--model_path",
        str(tmp_path / "mux" / "best"),
        "--max_steps",
        "20",
    ]
    trainer = build_trainer(
        parse_arguments([*flags, "--target_sparsity", "0.3", "0.5", "--lagrangian_warmup_ratio", "0.8"])
    )
    assert isinstance(trainer, DistillationTrainer)
    assert (trainer.schedule.end(0), trainer.schedule.warmup) == (10, 8)
    monkeypatch.setenv("PRUMUX_RESULTS", str(tmp_path / "runs.jsonl"))
    record = run([
        *SMALL, "--setting", "pruning", "--model_path", str(tmp_path / "mux" / "best"), "--max_steps", "9",
        "--target_sparsity", "0.3", "0.5", "0.7", "--sparsity_epsilon", "0.02", "--lagrangian_warmup_epochs", "0.25",
        "--pruning_criterion", criterion, "--eval_steps", "100", "--output_dir", str(tmp_path / "pruned"),
    ])  # fmt: skip
    assert record["target_sparsity"] == 0.7
    folders = [tmp_path / "pruned" / name / "best" for name in ("sparsity0.30", "sparsity0.50", ".")]
    for folder, target in zip(folders, (0.3, 0.5, 0.7), strict=True):
        model = PrumuxForSequenceClassification.from_pretrained(folder)
        assert model_size(model).sparsity == pytest.approx(target, abs=0.02)
    (tmp_path / "sparsity_of_mine").symlink_to(folders[0].parent)
    for start in (tmp_path / "sparsity_of_mine" / "best", folders[0]):
        output = str(tmp_path / "tuned" / start.parent.name)
        run([*SMALL, "--model_path", str(start), "--max_steps", "1", "--output_dir", output])
    *pruned, mine, tuned = read_lines([tmp_path / "runs.jsonl"])
    assert [(line["kind"], line["sparsity"]) for line in pruned] == [("pruning", s) for s in (0.3, 0.5, 0.7)]
    assert len({line["checkpoint"] for line in pruned}) == 3
    assert mine["sparsity"] is None, "its folder's name says none"
    assert (tuned["kind"], tuned["sparsity"], tuned["dtype"], tuned["speedup"]) == (
        "finetuning",
        0.3,
        "float32",
        None,
    )
    again = [*SMALL, "--setting", "pruning", "--model_path", str(tmp_path / "mux" / "best"), "--output_dir"]
    with pytest.raises(UserError, match="3 targets in 2 steps of pruning"):
        run([*again, str(tmp_path / "few"), "--max_steps", "2", "--target_sparsity", "0.3", "0.5", "0.7"])
    with pytest.raises(UserError, match=r"two of them would share the folder sparsity0\.30"):
        run([*again, str(tmp_path / "few"), "--target_sparsity", "0.3001", "0.3003"])
    with pytest.raises(UserError, match="expected ascending shares"):
        run([*SMALL, "--setting", "pruning", "--model_path", "x", "--target_sparsity", "0.5", "0.3"])


def test_pruning_what_was_not_finetuned_is_said(shape, tmp_path, caplog):
    flags = [*SMALL, "--num_instances", "2"]
    warm, mux = str(tmp_path / "warm" / "best"), str(tmp_path / "mux" / "best")
    run(
        [
            *flags,
            "--setting",
            "retrieval_pretraining",
            "--config_name",
            shape,
            "--output_dir",
            str(tmp_path / "warm"),
        ]
    )
    run([*flags, "--setting", "finetuning", "--model_path", warm, "--output_dir", str(tmp_path / "mux")])
    for start, said in ((mux, False), (warm, True)):
        caplog.clear()
        build_trainer(
            parse_arguments([*flags, "--setting", "pruning", "--model_path", start, "--teacher", mux])
        )
        assert ("has no trained classifier" in caplog.text) == said


def test_from_a_narrow_model_to_copies_of_it_side_by_side(shape, tmp_path):
    def go(name: str, *flags: str) -> dict:
        return run([*SMALL, "--logging_steps", "2", *flags, "--output_dir", str(tmp_path / name)])

    dense = str(tmp_path / "dense" / "best")
    go("dense", "--setting", "baseline", "--config_name", shape)
    narrow = go("narrow", "--setting", "pruning", "--model_path", dense, "--narrow_for", "2", "--distill_states",
                "--lagrangian_warmup_epochs", "0.25")  # fmt: skip
    model = PrumuxForSequenceClassification.from_pretrained(tmp_path / "narrow" / "best")
    assert (model.config.hidden_size, model.config.kept_heads) == (8, [2, 2])
    assert narrow["sparsity"] == pytest.approx(0.75, abs=0.02)
    assert narrow["target_sparsity"] is None, "a width was asked for, not a sparsity"
    mux = go("mux", "--model_path", str(tmp_path / "narrow" / "best"), "--num_instances", "2", "--teacher", dense,
             "--separate_instances", "--muxing_variant", "binary_hadamard",
             "--binary_hadamard_epsilon", "0")  # fmt: skip
    assert mux["sparsity"] == 0
    with pytest.raises(UserError, match="narrow_for is 1, expected 2 or more copies"):
        go("wrong", "--setting", "pruning", "--model_path", dense, "--narrow_for", "1")
    with pytest.raises(
        UserError, match="pruning_type is structured_heads, expected one with structured_heads"
    ):
        go(
            "wrong",
            "--setting",
            "pruning",
            "--narrow_for",
            "2",
            "--pruning_type",
            "structured_heads",
            "--model_path",
            dense,
        )
    with pytest.raises(UserError, match="--narrow_for 5: 5 copies don't fit side by side"):
        go("wrong", "--setting", "pruning", "--model_path", dense, "--narrow_for", "5")
    with pytest.raises(UserError, match="--narrow_for prunes a plain model"):
        go(
            "wrong",
            "--setting",
            "pruning",
            "--model_path",
            str(tmp_path / "mux" / "best"),
            "--narrow_for",
            "2",
        )
    with pytest.raises(UserError, match="narrow_for is 2, expected nothing outside --setting finetuning"):
        go("wrong", "--setting", "retrieval_pretraining", "--model_path", dense, "--narrow_for", "2")
    with pytest.raises(UserError, match=r"--narrow_for cuts an unpruned model, .* is pruned: leave it out"):
        go("wrong", "--model_path", str(tmp_path / "narrow" / "best"), "--narrow_for", "2")
    with pytest.raises(UserError, match="--separate_instances starts from a plain model"):
        go("wrong", "--model_path", str(tmp_path / "mux" / "best"), "--separate_instances")


def test_the_narrow_model_is_taught_first(shape, tmp_path):
    def go(name: str, *flags: str) -> dict:
        return run([*SMALL, *flags, "--output_dir", str(tmp_path / name)])

    dense = str(tmp_path / "dense" / "best")
    go("dense", "--setting", "baseline", "--config_name", shape)
    copies = ("--model_path", dense, "--num_instances", "2", "--separate_instances", "--narrow_first",
              "--muxing_variant", "binary_hadamard", "--binary_hadamard_epsilon", "0", "--learning_rate",
              "0.003")  # fmt: skip
    taught = (*copies, "--teacher", dense)
    mux = go("mux", *taught)
    assert (mux["num_instances"], mux["sparsity"]) == (2, 0)
    record = json.loads((tmp_path / "mux" / "narrow" / "run.json").read_text())
    assert record["num_instances"] == 1
    assert record["sparsity"] == pytest.approx(0.75, abs=0.02)
    assert not any("learning_rate" in flag for flag in record["arguments"]), "the recipe says how it learns"
    kept = (tmp_path / "mux" / "narrow" / "run.json").stat().st_mtime
    assert go("mux", *taught)["time"] == mux["time"], "both are finished"
    go("mux", *taught, "--overwrite_output_dir")
    assert (tmp_path / "mux" / "narrow" / "run.json").stat().st_mtime > kept
    narrow = str(tmp_path / "mux" / "narrow" / "best")
    teachers = ("--model_path", narrow), ("--teacher", str(tmp_path / "mux" / "best"))
    for name, flags in (
        ("untaught", copies),
        *zip(("given", "mixed"), ((*taught, *t) for t in teachers), strict=True),
    ):
        go(name, *flags)
        assert not (tmp_path / name / "narrow").exists(), name
    for flags, said in (
        (("--muxing_variant", "gaussian_hadamard"), "copies stand side by side where each instance"),
        (("--num_instances", "6"), "6 copies don't fit side by side"),
    ):
        with pytest.raises(UserError, match=said):
            go("wrong", *taught, *flags)
        assert not (tmp_path / "wrong").exists() or not list((tmp_path / "wrong").iterdir()), "found at once"


def test_embeddings_stay_frozen_in_a_narrow_model(shape, tmp_path):
    dense = str(tmp_path / "dense" / "best")
    run([*SMALL, "--setting", "baseline", "--config_name", shape, "--output_dir", str(tmp_path / "dense")])
    flags = ("--model_path", dense, "--teacher", dense, "--narrow_for", "2", "--distill_states")
    trainer = build_trainer(parse_arguments([*SMALL, *flags, "--freeze_embeddings"]))
    assert not any(p.requires_grad for p in trainer.student.bert.embeddings.parameters())
