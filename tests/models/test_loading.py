"""Loading as users meet it: every wrong folder, file, size, label set and tokenizer is one line with a remedy."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from prumux import Masks, PrumuxConfig, PrumuxForMaskedLM, PrumuxForSequenceClassification, compact
from prumux.data.toy import toy_tokenizer
from prumux.errors import UserError
from prumux.models.architecture import read_config
from prumux.models.loading import load_model
from prumux.models.tokenizers import load_tokenizer

LABELS = ["negative", "positive"]
SHAPE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}


def load(path: Path | str | None = None, config: Path | str | None = None, labels=LABELS, **overrides):
    return load_model(
        PrumuxForSequenceClassification,
        model_path=None if path is None else str(path),
        config_path=None if config is None else str(config),
        overrides=overrides,
        label_names=labels,
    )


def refused(*args, **kwargs) -> str:
    with pytest.raises(UserError) as error:
        load(*args, **kwargs)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def checkpoint(tmp_path, tiny):
    """Saves a classifier and returns its folder."""

    def save(labels=LABELS, name: str = "model", **changes) -> Path:
        names = dict(enumerate(labels))
        config = tiny(id2label=names, label2id={label: i for i, label in names.items()}, **changes)
        PrumuxForSequenceClassification(config).save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def bert(tmp_path) -> Path:
    """A BERT checkpoint as the hub has them, with LayerNorms that are not the initial ones."""
    model = BertForMaskedLM(BertConfig(**SHAPE))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def shape(tmp_path):
    """Writes an architecture file."""

    def write(**changes) -> Path:
        (tmp_path / "shape.json").write_text(json.dumps(SHAPE | changes))
        return tmp_path / "shape.json"

    return write


# ---- what works


def test_own_checkpoints_come_back(checkpoint):
    folder = checkpoint(num_instances=2)
    model = load(folder)
    saved = load_file(folder / "model.safetensors")
    assert model.config.num_instances == 2
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert model.dtype == torch.float32


def test_random_weights_from_an_architecture(shape):
    model = load(config=shape(), num_instances=5, muxing_variant="random_ortho")
    assert model.bert.multiplexer.vectors.shape == (5, 16, 16)
    assert model.config.label2id == {"negative": 0, "positive": 1}


@pytest.mark.parametrize("naming", ["now", "gamma and beta", "no prefix", "pytorch_model.bin"])
@pytest.mark.parametrize("num_instances", [1, 2])
def test_bert_checkpoints_initialise_the_encoder(bert, naming, num_instances):
    weights = load_file(bert / "model.safetensors")
    if naming == "pytorch_model.bin":  # older checkpoints, such as google/electra-base-discriminator
        (bert / "model.safetensors").unlink()
        torch.save(weights, bert / naming)
    if naming == "gamma and beta":  # bert-base-uncased
        renamed = {
            k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
            for k, v in weights.items()
        }
        save_file(renamed, bert / "model.safetensors", metadata={"format": "pt"})
    elif naming == "no prefix":
        bare = {k.removeprefix("bert."): v for k, v in weights.items() if k.startswith("bert.")}
        save_file(bare, bert / "model.safetensors", metadata={"format": "pt"})
    state = load(bert, num_instances=num_instances).state_dict()
    shared = [name for name in weights if name.startswith("bert.") and "pooler" not in name]
    assert len(shared) == 37
    assert all(torch.equal(state[name], weights[name]) for name in shared)


@pytest.mark.parametrize("naming", ["now", "gamma and beta"])
def test_the_masked_word_head_of_a_bert_is_its_own(tmp_path, naming, rows):
    model = BertForMaskedLM(BertConfig(**SHAPE)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "bert")
    if naming == "gamma and beta":
        renamed = {
            k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
            for k, v in load_file(tmp_path / "bert/model.safetensors").items()
        }
        save_file(renamed, tmp_path / "bert/model.safetensors", metadata={"format": "pt"})
    ours = load_model(
        PrumuxForMaskedLM, model_path=str(tmp_path / "bert"), config_path=None, overrides={}, label_names=None,
        classifies=False,
    ).eval()  # fmt: skip
    ids, mask = rows(4)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(ids, mask).logits[mask.bool()], model(ids, mask).logits[mask.bool()], rtol=1e-4, atol=1e-5
        )


def test_a_configuration_without_a_type_is_an_old_bert(tmp_path, rows):
    """Such as prajjwal1/bert-tiny, which has a vocab.txt and no more of a tokenizer."""
    model = BertForMaskedLM(BertConfig(**SHAPE)).eval()
    model.save_pretrained(tmp_path / "tiny")
    file = tmp_path / "tiny/config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({name: fields[name] for name in SHAPE}))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(45))]
    (tmp_path / "tiny/vocab.txt").write_text("\n".join(words))
    assert load_tokenizer(str(tmp_path / "tiny"))("Word7 word44").input_ids == [2, 12, 49, 3]
    ours = load_model(
        PrumuxForMaskedLM, model_path=str(tmp_path / "tiny"), config_path=None, overrides={}, label_names=None,
        classifies=False,
    )  # fmt: skip
    theirs = model.cls.predictions.transform
    assert torch.equal(ours.lm_head.transform[0].weight, theirs.dense.weight)


def test_a_pretrained_multiplexer_is_used(tmp_path, tiny):
    model = PrumuxForMaskedLM(tiny(num_instances=2))
    model.save_pretrained(tmp_path / "warm")
    loaded = load(tmp_path / "warm", retrieval_loss_coeff=0.1)
    assert torch.equal(loaded.bert.multiplexer.vectors, model.bert.multiplexer.vectors)
    assert torch.equal(loaded.bert.demultiplexer.keys, model.bert.demultiplexer.keys)
    assert torch.equal(loaded.lm_head.transform[0].weight, model.lm_head.transform[0].weight)


def test_a_pruned_checkpoint_keeps_its_structure(tmp_path, checkpoint):
    masks = Masks(
        hidden=(torch.arange(16) % 2).float(), head=torch.tensor([[1.0, 0, 0, 1], [0] * 4]), mlp=torch.tensor([0, 1.0])
    )  # fmt: skip
    small = compact(load(checkpoint(num_instances=2)), masks)
    small.save_pretrained(tmp_path / "small")
    again = load(tmp_path / "small")
    assert again.config.kept_heads == [2, 0]
    assert again.config.kept_intermediate == [0, 24]
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in again.state_dict().items())


# ---- paths and files


@pytest.mark.parametrize("path", ["/does/not/exist", "./missing", "~nobody/model", ""])
def test_a_missing_folder(path):
    assert "expected a folder with config.json and model.safetensors" in refused(path)


@pytest.mark.parametrize("path", ["out/SST-2/dense/best", "nobody/nothing", "a name with spaces"])
def test_a_name_that_is_neither_folder_nor_on_the_hub(path):
    message = refused(path)
    assert path in message
    assert "check the name and the network" in message


def test_a_folder_without_a_model(tmp_path):
    assert f"no model in {tmp_path}" in refused(tmp_path)


def test_nothing_named():
    assert "--model_name_or_path (weights) or --config_name" in refused()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00\x01", b"[1, 2]", b"3", b"null"])
def test_a_broken_configuration(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    assert "configuration" in refused(tmp_path)
    assert "configuration" in refused(config=tmp_path / "config.json")


@pytest.mark.parametrize("kind", ["gpt2", "modernbert", "distilbert"])
def test_an_unsupported_model(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps(SHAPE | {"model_type": kind}))
    assert f"type '{kind}', expected one of: prumux, bert, roberta, electra" in refused(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights(checkpoint, share):
    file = checkpoint() / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    message = refused(file.parent)
    assert f"can't load the weights of {file.parent}" in message
    assert "damaged" in message


def test_weights_that_are_something_else(checkpoint):
    folder = checkpoint()
    (folder / "model.safetensors").write_bytes(b"<html>404: not found</html>" * 50)
    assert "damaged" in refused(folder)


def test_weights_of_another_architecture_do_not_pass_as_random_ones(bert):
    save_file(
        {"transformer.wte.weight": torch.zeros(3)}, bert / "model.safetensors", metadata={"format": "pt"}
    )
    message = refused(bert)
    assert "tensors of the encoder are not in it" in message
    assert "name a BERT or PruMUX checkpoint" in message


class _Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_runs_no_code(checkpoint, tmp_path):
    folder = checkpoint()
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.ones(1), "more": _Bomb(tmp_path / "exploded")}, folder / "pytorch_model.bin")
    assert "expected model.safetensors (or pytorch_model.bin)" in refused(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(tmp_path / "exploded")))
    assert "expected model.safetensors (or pytorch_model.bin)" in refused(folder)
    assert not (tmp_path / "exploded").exists()


def test_loading_changes_nothing_on_disk(checkpoint):
    folder = checkpoint()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    load(folder)
    refused(folder, num_instances=0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# ---- shapes


def test_another_hidden_size(checkpoint, bert, shape):
    for folder in (checkpoint(), bert):
        message = refused(folder, shape(hidden_size=32))
        assert "has the shape (16,), the configuration needs (32,)" in message
        assert "--config_name" in message


def test_more_layers_than_the_weights_have(bert, shape):
    message = refused(bert, shape(num_hidden_layers=4))
    assert "encoder.layer.2" in message
    assert "as many layers" in message


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden_size": 17}, "hidden_size 17 is not a multiple of num_attention_heads 4"),
        ({"num_instances": 0}, "num_instances is 0"),
        ({"num_instances": -2}, "num_instances is -2"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide', expected a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"),
        ({"hidden_act": "gelato"}, "hidden_act is 'gelato'"),
        (
            {"num_instances": 2, "muxing_variant": "magic"},
            "choose one of: binary_hadamard, gaussian_attention_v2",
        ),
        ({"num_instances": 2, "demuxing_variant": "magic"}, "choose one of: index, index_pos, mlp"),
        (
            {"num_instances": 2, "binary_hadamard_epsilon": -2},
            "binary_hadamard_epsilon is -2, expected 0 or more",
        ),
        ({"gaussian_hadamard_norm": 0}, "gaussian_hadamard_norm is 0, expected more than 0"),
        ({"type_vocab_size": 0}, "type_vocab_size is 0"),
        ({"pad_token_id": 50}, "pad_token_id is 50, expected one of the vocabulary's 50 tokens"),
        ({"num_instances": 17, "muxing_variant": "binary_hadamard"}, "into 17 chunks"),
    ],
)
def test_impossible_architectures(shape, wrong, message):
    found = refused(config=shape(**wrong))
    assert found.startswith("wrong model configuration")
    assert message in found


@pytest.mark.parametrize("labels", [["negative", "positive"], {"negative": 0, "positive": 1}])
def test_classes_in_another_form(checkpoint, labels):
    folder = checkpoint()
    fields = json.loads((folder / "config.json").read_text()) | {"id2label": labels}
    (folder / "config.json").write_text(json.dumps(fields))
    assert "expected numbers and names such as" in refused(folder)


@pytest.mark.parametrize("change", [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"hidden_size": 32}])
def test_a_pruned_shape_stays_as_it_is(tmp_path, checkpoint, change):
    model = load(checkpoint())
    compact(model, Masks(head=torch.eye(2, 4), hidden=torch.arange(16) % 2.0)).save_pretrained(
        tmp_path / "pruned"
    )
    assert "the shape of a pruned model can't be changed" in refused(tmp_path / "pruned", **change)


# ---- multiplexing


def test_a_checkpoint_without_its_multiplexer(checkpoint):
    file = checkpoint(num_instances=2) / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "multiplexer" not in k}, file, {"format": "pt"})
    assert "the first is bert.demultiplexer" in refused(file.parent)


@pytest.mark.parametrize(
    "asked",
    [
        {"num_instances": 5},
        {"num_instances": 1},
        {"muxing_variant": "random_ortho"},
        {"demuxing_variant": "mlp"},
        {"num_hidden_demux_layers": 4},
    ],
)
def test_a_checkpoint_of_another_kind_of_multiplexing(checkpoint, asked):
    (name, wanted), folder = next(iter(asked.items())), checkpoint(num_instances=2)
    message = refused(folder, **asked)
    assert f"{folder} was made with {name} " in message
    assert f"but {wanted} was asked for: leave --{name} out" in message


@pytest.mark.parametrize("num_instances", [1, 5])
def test_an_architecture_file_does_not_hide_another_n(checkpoint, shape, num_instances):
    assert "was made with num_instances 2" in refused(
        checkpoint(num_instances=2), shape(num_instances=num_instances)
    )


def test_saying_what_the_checkpoint_is_anyway(checkpoint):
    folder = checkpoint(num_instances=2)
    assert load(folder, num_instances=2, muxing_variant="gaussian_hadamard").config.num_instances == 2


def test_a_plain_encoder_takes_any_multiplexing(checkpoint):
    model = load(checkpoint(), num_instances=5, demuxing_variant="mlp")
    assert model.bert.multiplexer.vectors.shape == (5, 16)


# ---- labels


NLI = ["entailment", "neutral", "contradiction"]
AUTHORS = ["contradiction", "entailment", "neutral"]


@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_the_order_of_the_labels_is_the_checkpoints(checkpoint, case):
    stored = [case(name) for name in AUTHORS]
    model = load(checkpoint(stored), labels=NLI)
    assert model.config.id2label == dict(enumerate(stored))
    assert model.config.label2id == {name: i for i, name in enumerate(stored)}


def test_the_order_of_the_labels_of_a_bert_classifier(tmp_path):
    config = BertConfig(
        **SHAPE, id2label=dict(enumerate(AUTHORS)), label2id={n: i for i, n in enumerate(AUTHORS)}
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "nli")
    assert load(tmp_path / "nli", labels=NLI).config.id2label == dict(enumerate(AUTHORS))


def test_an_architecture_file_does_not_hide_the_order(checkpoint, shape):
    assert load(checkpoint(AUTHORS), shape(), labels=NLI).config.id2label == dict(enumerate(AUTHORS))


@pytest.mark.parametrize("labels", [NLI, ["no", "yes"], None, ["positive"]])
def test_labels_of_another_task(checkpoint, labels):
    message = refused(checkpoint(), labels=labels)
    assert "has the labels negative, positive, the data has" in message
    assert "name a model of this task" in message


def test_classes_without_names_are_not_mapped_by_position(checkpoint):
    message = refused(checkpoint(["LABEL_0", "LABEL_1"]))
    assert "does not say which of its classes is which" in message
    assert "id2label" in message


def test_weights_without_a_classifier_are_no_teacher(tmp_path, tiny):
    PrumuxForMaskedLM(tiny()).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no trained classifier"):
        load_model(
            PrumuxForSequenceClassification, model_path=str(tmp_path), label_names=LABELS, trained_head=True
        )


def test_a_pretrained_model_has_no_labels_to_compare(tmp_path, tiny):
    PrumuxForMaskedLM(tiny(id2label={0: "a", 1: "b", 2: "c"})).save_pretrained(tmp_path)
    assert load(tmp_path).config.num_labels == 2


# ---- tokenizers


def test_the_first_named_tokenizer_is_taken(tmp_path):
    toy_tokenizer().save_pretrained(tmp_path)
    assert len(load_tokenizer(None, str(tmp_path), "/does/not/exist")) == len(toy_tokenizer())


def test_no_tokenizer_named():
    with pytest.raises(UserError, match="give --tokenizer_name"):
        load_tokenizer(None, None)


def test_a_folder_without_a_tokenizer(checkpoint, bert, tmp_path):
    """For a BERT folder Transformers makes up a tokenizer of five tokens."""
    for path in (checkpoint(), bert, "nobody/nothing"):
        with pytest.raises(UserError, match=r"can't load a tokenizer from .*give --tokenizer_name") as error:
            load_tokenizer(str(path))
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no folder .*missing: expected a model's folder"):
        load_tokenizer(str(tmp_path / "missing"))


def test_reading_a_configuration_keeps_the_models_own_fields(checkpoint):
    fields = read_config(checkpoint(num_instances=2))
    assert fields["num_instances"] == 2
    assert fields["_kind"] == "prumux"
    assert "architectures" not in fields


@pytest.mark.parametrize("family", ["Roberta", "Electra"])
def test_the_order_of_the_labels_of_other_encoders(tmp_path, family):
    """Their classifiers are two layers with names of their own."""
    own = {"embedding_size": SHAPE["hidden_size"]} if family == "Electra" else {}
    config = getattr(transformers, f"{family}Config")(
        **SHAPE, **own, id2label=dict(enumerate(AUTHORS)), label2id={n: i for i, n in enumerate(AUTHORS)}
    )
    getattr(transformers, f"{family}ForSequenceClassification")(config).save_pretrained(tmp_path / "nli")
    assert load(tmp_path / "nli", labels=NLI).config.id2label == dict(enumerate(AUTHORS))
    with pytest.raises(UserError, match="name a model of this task"):
        load(tmp_path / "nli", labels=["no", "yes", "perhaps"])


def test_fields_given_as_keywords_are_fields_like_any_other(tmp_path, tiny):
    tiny().save_pretrained(tmp_path)
    config = PrumuxConfig.from_pretrained(
        tmp_path,
        num_instances=2,
        muxing_variant="contextual",
        demuxing_variant="rsa",
        hidden_size=32,
        num_labels=3,
    )
    assert (config.muxing_variant, config.demuxing_variant) == ("gaussian_attention_v2", "index_pos")
    assert (config.dense_hidden_size, config.head_dim * config.num_attention_heads) == (32, 32)
    assert (config.num_instances, config.num_labels) == (2, 3)
    with pytest.raises(Exception, match="not a multiple of num_attention_heads"):
        PrumuxConfig.from_pretrained(tmp_path, hidden_size=33)
