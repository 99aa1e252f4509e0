"""Conversion of checkpoints made here in the authors' formats: what arrives, what is refused, what is left behind."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from prumux import Masks, PrumuxForTokenClassification, UserError, compact, convert_checkpoint
from prumux.__main__ import main
from prumux.checkpoints.source import MASKS
from prumux.pruning.accounting import model_size
from prumux.training.phases import run
from tests.conftest import AUTHORS_SHAPE


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    file = folder / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    for name, value in tensors.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    torch.save(state, file)


def change_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@torch.no_grad()
def test_a_plain_bert_arrives_unchanged(bert, tmp_path):
    conversion = convert_checkpoint(bert, tmp_path / "ours")
    assert conversion.facts["labels"] == "negative, positive"  # of SST-2, by the folder's name
    ids, mask = torch.randint(5, 90, (4, 9)), torch.ones(4, 9, dtype=torch.long)
    mask[1:, 6:] = 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    theirs = BertForSequenceClassification.from_pretrained(bert, use_safetensors=False).eval()
    torch.testing.assert_close(model(ids, mask).logits, theirs(ids, mask).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_pruned_bert_with_masks_converts_and_can_be_pruned_further(bert, tmp_path):
    masks = Masks(
        head=torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0]]), intermediate=torch.ones(2, 24), hidden=torch.ones(16),
        mlp=torch.tensor([1.0, 1.0]), head_layer=torch.ones(2),
    )  # fmt: skip
    masks.hidden[3:6] = 0
    masks.intermediate[0, :20] = 0
    convert_checkpoint(bert, tmp_path / "dense")
    dense = AutoModelForSequenceClassification.from_pretrained(tmp_path / "dense").eval()
    shapes = {"head": (2, 1, 4, 1, 1), "intermediate": (2, 1, 1, 24)}
    torch.save(
        {f"{name}_z": value.view(shapes.get(name, value.shape)) for name, value in masks.items()},
        bert / MASKS,
    )
    convert_checkpoint(bert, tmp_path / "pruned")
    pruned = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned").eval()
    assert pruned.config.kept_heads == [2, 0]
    ids = torch.randint(5, 90, (4, 9))
    expected = compact(dense, masks)(ids).logits
    torch.testing.assert_close(pruned(ids).logits, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_round_trip_of_a_pruned_model(bert, tmp_path):
    """Physically pruned weights in their format -> ours -> evaluated -> pruned further -> evaluated."""
    state = torch.load(bert / "pytorch_model.bin", weights_only=True)
    for name in [name for name in state if name.startswith("bert.encoder.layer.1.attention.")]:
        if "LayerNorm" not in name:  # which they leave behind
            del state[name]
    for part in ("query", "key", "value"):
        for kind in ("weight", "bias"):
            name = f"bert.encoder.layer.0.attention.self.{part}.{kind}"
            state[name] = state[name][:8]
    name = "bert.encoder.layer.0.attention.output.dense.weight"
    state[name] = state[name][:, :8]
    torch.save(state, bert / "pytorch_model.bin")
    convert_checkpoint(bert, tmp_path / "ours")
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours")
    before = model_size(small).sparsity
    assert small.config.kept_heads == [2, 0]
    flags = (
        f"--task_name toy --max_train_samples 48 --max_eval_samples 20 --disable_tqdm True "
        f"--model_path {tmp_path}/ours --per_device_train_batch_size 12 --max_steps 4 --output_dir {tmp_path}/"
    )
    evaluated = run([*(flags + "evaluated").split(), "--do_eval"])
    assert evaluated["sparsity"] == pytest.approx(before)
    further = run([
        *(flags + "further --setting pruning --target_sparsity 0.8 --sparsity_epsilon 0.03").split(), "--do_train",
        "--lagrangian_warmup_epochs", "0.5",
    ])  # fmt: skip
    assert further["sparsity"] == pytest.approx(0.8, abs=0.03)


def test_a_tokenizer_of_an_older_release_loads_afterwards(bert, tmp_path):
    """CoFi's models have a vocab.txt, and no word of what kind it is but in their config.json."""
    for file in bert.glob("*tok*"):
        file.unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(895))]
    (bert / "vocab.txt").write_text("\n".join(words))
    (bert / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 512}')
    convert_checkpoint(bert, tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert tokenizer("Word7 word44").input_ids == [2, 12, 49, 3]
    assert tokenizer.model_max_length == 512


def test_a_pooler_that_no_token_is_read_through_is_left_out(tmp_path):
    """dslim/bert-base-NER has one."""
    model = BertForTokenClassification(BertConfig(**AUTHORS_SHAPE, num_labels=3)).eval()
    model.save_pretrained(tmp_path / "bert-NER")
    state = model.state_dict() | {
        "bert.pooler.dense.weight": torch.ones(16, 16),
        "bert.pooler.dense.bias": torch.ones(16),
    }
    (tmp_path / "bert-NER/model.safetensors").unlink()
    torch.save(state, tmp_path / "bert-NER/pytorch_model.bin")
    convert_checkpoint(tmp_path / "bert-NER", tmp_path / "ours")
    ours = PrumuxForTokenClassification.from_pretrained(tmp_path / "ours").eval()
    ids = torch.randint(1, 50, (2, 7))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-6)


def test_the_classes_of_mnli(mux, tmp_path):
    facts = convert_checkpoint(mux, tmp_path / "ours").facts
    assert facts["labels"] == "contradiction, entailment, neutral"
    assert "attend_padding=True" in facts["compatibility"]
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").config
    assert config.id2label[0] == "contradiction"


def test_classes_without_a_known_task_keep_their_numbers(mux, tmp_path):
    other = mux.rename(tmp_path / "mine")
    assert "name the task with --task" in convert_checkpoint(other, tmp_path / "a").facts["labels"]
    assert convert_checkpoint(other, tmp_path / "b", task="mnli").facts["labels"].startswith("contradiction")


def test_the_order_of_mnlis_classes_is_not_guessed(tmp_path):
    """The authors' is another than that of the dataset on the hub."""
    shape = AUTHORS_SHAPE | {"num_labels": 3}
    for name in ("my-bert-mnli", "CoFi-MNLI-s60"):
        BertForSequenceClassification(BertConfig(**shape)).save_pretrained(tmp_path / name)
    assert "LABEL_0" in convert_checkpoint(tmp_path / "my-bert-mnli", tmp_path / "a").facts["labels"]
    with pytest.raises(UserError, match="write their names into id2label"):
        convert_checkpoint(tmp_path / "my-bert-mnli", tmp_path / "b", task="MNLI")
    facts = convert_checkpoint(tmp_path / "CoFi-MNLI-s60", tmp_path / "c").facts
    assert facts["labels"] == "contradiction, entailment, neutral"
    with pytest.raises(UserError, match="has 3 classes, SST-2 another number"):
        convert_checkpoint(tmp_path / "my-bert-mnli", tmp_path / "d", task="SST-2")


def test_an_encoder_without_a_classifier_needs_no_conversion(tmp_path):
    BertForMaskedLM(BertConfig(**AUTHORS_SHAPE)).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="start from it with --model_name_or_path"):
        convert_checkpoint(tmp_path / "bert", tmp_path / "ours")


def test_the_checkpoints_own_classes_come_first(mux, tmp_path):
    names = ["entailment", "neutral", "contradiction"]
    change_config(mux, label2id={name: i for i, name in enumerate(names)})
    facts = convert_checkpoint(mux, tmp_path / "by_name", task="mnli").facts
    assert facts["labels"] == "entailment, neutral, contradiction"
    change_config(mux, label2id={"a": 0, "b": 1, "c": 2})
    with pytest.raises(UserError, match="a, b, c, which are not those of mnli"):
        convert_checkpoint(mux, tmp_path / "other", task="mnli")


def test_numbers_are_no_names_and_the_nearest_folder_tells_the_task(mux, tmp_path):
    near = tmp_path / "rte" / "muxbert_base_mnli_2"
    near.parent.mkdir()
    mux.rename(near)
    change_config(near, id2label={"0": "0", "1": "1", "2": "2"})
    assert convert_checkpoint(near, tmp_path / "ours").facts["labels"] == "contradiction, entailment, neutral"


def test_neighbours_of_the_result_are_left_alone(mux, tmp_path):
    """Whatever a neighbour is called, SRC included."""
    for name in ("ours.old", "ours.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").touch()
    source = mux.rename(tmp_path / "mine.old")
    convert_checkpoint(source, tmp_path / "ours")
    convert_checkpoint(source, tmp_path / "mine")
    assert (source / "pytorch_model.bin").is_file()
    assert all((tmp_path / name / "precious").is_file() for name in ("ours.old", "ours.tmp"))


def test_an_empty_folder_is_filled_and_the_working_directory_refused(capsys, mux, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    convert_checkpoint(mux, tmp_path / "link")
    assert (tmp_path / "empty" / "config.json").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="exists already"):
        convert_checkpoint(mux, ".")


def refused(capsys, src: Path, dst: Path) -> str:
    """The one line of the command; nothing is left where the result would be."""
    before = sorted(dst.parent.iterdir())
    with pytest.raises(SystemExit) as exit_:
        main(["convert", str(src), str(dst)])
    assert exit_.value.code == 2
    assert sorted(dst.parent.iterdir()) == before
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_no_checkpoint(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is no checkpoint" in refused(capsys, tmp_path / "empty", tmp_path / "ours")
    assert "no folder" in refused(capsys, tmp_path / "missing", tmp_path / "ours")


def test_states_that_are_not_final(capsys, mux, tmp_path):
    torch.save({"a": torch.ones(1)}, mux / "l0_module.pt")
    assert "pruning has not ended" in refused(capsys, mux, tmp_path / "ours")
    (mux / "l0_module.pt").unlink()
    (mux / "pytorch_model.bin").rename(mux / "pytorch_model-00001-of-00001.bin")
    (mux / "pytorch_model.bin.index.json").write_text("{}")
    assert "in several files" in refused(capsys, mux, tmp_path / "ours")


def test_truncated_weights(capsys, mux, tmp_path):
    file = mux / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:5000])
    assert "expected a complete file of tensors" in refused(capsys, mux, tmp_path / "ours")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"muxing_variant": "magic"}, "muxing_variant is 'magic', supported are: binary_hadamard"),
        ({"demuxing_variant": "magic"}, "demuxing_variant is 'magic'"),
        ({"num_instances": 0}, "num_instances is 0"),
        ({"num_instances": 3}, "has shape (2, 16)"),
        ({"model_type": "electra"}, "of type 'electra'"),
        ({"hidden_size": None}, "no usable hidden_size"),
        ({"num_hidden_layers": 1}, "tensors of layer 1"),
        ({"num_hidden_layers": 3}, "neither whole nor removed"),
        ({"intermediate_size": 23}, "have intermediate_size 24, config.json says 23"),
        ({"vocab_size": 90}, "lacks token 101"),
        ({"muxing_variant": ["a"]}, "muxing_variant is '['a']'"),
        ({"num_hidden_demux_layers": "3"}, "its demultiplexer has 3 dense layers"),
        ({"num_hidden_demux_layers": 2}, "its demultiplexer has 3 dense layers"),
        ({"id2label": ["a", "b", "c"]}, "no table of numbers and names"),
        ({"id2label": {"a": "b"}}, "no table of numbers and names"),
    ],
)
def test_a_wrong_configuration(capsys, mux, tmp_path, values, message):
    change_config(mux, **values)
    assert message in refused(capsys, mux, tmp_path / "ours")


@pytest.mark.parametrize(
    "missing",
    ["attention.self.query.weight", "attention.self.query.bias", "intermediate.dense.weight", "output."],
)
def test_a_block_that_is_not_whole(capsys, bert, tmp_path, missing):
    state = torch.load(bert / "pytorch_model.bin", weights_only=True)
    gone = [name for name in state if name.startswith(f"bert.encoder.layer.1.{missing}")]
    change(bert, **dict.fromkeys(gone))
    assert "incomplete" in refused(capsys, bert, tmp_path / "ours")


def test_masks_of_another_model(capsys, bert, tmp_path):
    torch.save({"head_z": torch.ones(3, 1, 4, 1, 1)}, bert / MASKS)
    assert "does not fit its weights" in refused(capsys, bert, tmp_path / "ours")
    for value in (float("nan"), -1.0, 7.0, 1j):
        torch.save({"mlp_z": torch.tensor([1.0, value])}, bert / MASKS)
        assert "values outside 0 to 1" in refused(capsys, bert, tmp_path / "ours")
    torch.save({"tail_z": torch.ones(3)}, bert / MASKS)
    assert "zs.pt has 'tail_z'" in refused(capsys, bert, tmp_path / "ours")


def test_contradictory_duplicates(capsys, mux, tmp_path):
    change(mux, **{"demux_module.dense_2.bias": torch.zeros(16)})
    assert "should be the same tensor but differ" in refused(capsys, mux, tmp_path / "ours")


def test_missing_and_unknown_tensors(capsys, mux, tmp_path):
    change(mux, **{"mystery.weight": torch.zeros(2)})
    assert "does not have: mystery.weight" in refused(capsys, mux, tmp_path / "ours")
    change(mux, **{"mystery.weight": None, "demultiplexer.pre_decoder.weight": None})
    assert "has no demultiplexer.pre_decoder.weight" in refused(capsys, mux, tmp_path / "ours")


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "owned")


@pytest.mark.parametrize("name", ["pytorch_model.bin", MASKS])
@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_a_malicious_pickle_runs_nothing(capsys, bert, tmp_path, name, protocol):
    target = tmp_path / "owned.txt"
    if protocol == "torch":
        torch.save({"weight": Malicious(target)}, bert / name)
    else:
        (bert / name).write_bytes(pickle.dumps({"weight": Malicious(target)}))
    line = refused(capsys, bert, tmp_path / "ours")
    assert "could run code" in line
    assert not target.exists()


def test_an_existing_folder_is_not_replaced(capsys, bert, tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "precious").touch()
    with pytest.raises(UserError, match="exists already"):
        convert_checkpoint(bert, tmp_path / "ours")
    assert (tmp_path / "ours" / "precious").exists()


def test_our_own_format_is_said_to_be_ours(bert, tmp_path):
    convert_checkpoint(bert, tmp_path / "ours")
    with pytest.raises(UserError, match="in our format already"):
        convert_checkpoint(tmp_path / "ours", tmp_path / "again")
