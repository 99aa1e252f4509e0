"""Every encoder family passes the same tests: Hugging Face's logits, masked == compacted, folders, every phase."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    ElectraConfig,
    RobertaConfig,
)

from prumux import (
    Masks,
    PrumuxForMaskedLM,
    PrumuxForSequenceClassification,
    PrumuxForTokenClassification,
    compact,
    compile_for_inference,
)
from prumux.data.toy import toy_tokenizer
from prumux.errors import UserError
from prumux.models.backbones import BACKBONES
from prumux.models.loading import load_model
from prumux.training.phases import run

LABELS = ["negative", "positive"]
FAMILIES = {
    "bert": (BertConfig, {}),
    "roberta": (RobertaConfig, {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "electra": (ElectraConfig, {"embedding_size": 16}),
}
backbones = pytest.mark.parametrize("family", FAMILIES)


def hugging_face(family: str, auto: type, folder: Path, pad: int = 0):
    """A small model of Hugging Face's own with weights that show, saved in ``folder``."""
    kind, extra = FAMILIES[family]
    tokenizer = toy_tokenizer()
    config = kind(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
        pad_token_id=pad,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
        **extra,
    )
    torch.manual_seed(0)
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def inputs(pad: int, rows: int = 4, length: int = 9):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 30, (rows, length), generator=generator)
    mask = (torch.arange(length) < torch.tensor([[length], [5], [7], [2]])[:rows]).long()
    return ids.masked_fill(mask == 0, pad), mask


def test_every_family_is_here():
    assert set(FAMILIES) == set(BACKBONES)


@backbones
@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize(
    ("auto", "ours"),
    [
        (AutoModelForSequenceClassification, PrumuxForSequenceClassification),
        (AutoModelForTokenClassification, PrumuxForTokenClassification),
        (AutoModelForMaskedLM, PrumuxForMaskedLM),
    ],
)
def test_hugging_faces_logits_at_n_1(family, auto, ours, pad, tmp_path):
    theirs = hugging_face(family, auto, tmp_path, pad)
    model = load_model(
        ours, model_path=str(tmp_path), label_names=LABELS, classifies=ours is not PrumuxForMaskedLM
    ).eval()
    ids, mask = inputs(pad)
    with torch.no_grad():
        expected, found = theirs(ids, mask).logits, model(ids, mask).logits
    if expected.dim() == 3:
        expected, found = expected[mask.bool()], found[mask.bool()]
    if family == "electra" and auto is AutoModelForMaskedLM:
        expected, found = expected[:, :0], found[:, :0]  # its generator has a head of another kind
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@backbones
@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize("demuxing", ["index_pos", "index"])
def test_masked_is_compacted_is_loaded_is_the_engine(family, instances, demuxing, tmp_path):
    hugging_face(family, AutoModelForSequenceClassification, tmp_path / "theirs", pad=1)
    model = load_model(
        PrumuxForSequenceClassification,
        model_path=str(tmp_path / "theirs"),
        overrides={"num_instances": instances, "demuxing_variant": demuxing},
        label_names=LABELS,
    ).eval()
    hidden = torch.ones(16)
    hidden[[2, 5]], hidden[7] = 0, 0.5
    masks = Masks(
        head=torch.tensor([[1.0, 0], [1, 1], [0, 0]]),
        intermediate=torch.ones(3, 24).masked_fill(torch.arange(24) % 3 == 0, 0),
        hidden=hidden,
    )
    ids, mask = inputs(1)
    smaller = compact(model, masks)
    smaller.save_pretrained(tmp_path / "smaller")
    loaded = PrumuxForSequenceClassification.from_pretrained(tmp_path / "smaller").eval()
    engine = compile_for_inference(loaded, compile=False, progress=False)
    with torch.no_grad():
        expected = model(ids, mask, masks=masks).logits
        for found in (smaller(ids, mask).logits, loaded(ids, mask).logits, engine(ids, mask)):
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@backbones
def test_every_phase_takes_a_step(family, tmp_path, caplog):
    """Retrieval, masked tokens, finetuning, pruning and finetuning after it, from Hugging Face's folder."""
    hugging_face(family, AutoModelForSequenceClassification, tmp_path / "theirs")
    flags = "--task_name toy --max_train_samples 16 --max_eval_samples 4 --max_steps 1 --do_train --max_seq_length 16"
    flags += " --eval_strategy no --save_strategy no --disable_tqdm True --num_instances 2"

    def phase(setting: str, start: str, more: str = "") -> dict:
        output = tmp_path / (setting + more.replace(" ", ""))
        return run(
            [*flags.split(), "--setting", setting, "--model_path", str(tmp_path / start), *more.split(),
             "--output_dir", str(output)]
        )  # fmt: skip

    phase("retrieval_pretraining", "theirs")
    phase("mlm_pretraining", "retrieval_pretraining/best")
    phase("finetuning", "mlm_pretraining/best")
    record = phase("pruning", "finetuning/best", "--target_sparsity 0.5")
    assert record["sparsity"] == pytest.approx(0.5, abs=0.05)
    teacher = f"--teacher {tmp_path / 'finetuning' / 'best'}"
    assert phase("finetuning", "pruning--target_sparsity0.5/best", teacher)["steps"] == 1


def test_new_weights_take_the_tokenizers_padding(tmp_path):
    """RoBERTa's positions start behind the padding token, whichever the tokenizer has."""
    config = {"model_type": "roberta", "vocab_size": 200, "hidden_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 40, "pad_token_id": 1,
              "type_vocab_size": 1}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    run(
        f"--task_name toy --max_train_samples 8 --max_eval_samples 4 --max_steps 1 --do_train --max_seq_length 16 "
        f"--eval_strategy no --save_strategy no --disable_tqdm True --num_instances 2 --config_name "
        f"{tmp_path / 'config.json'} --output_dir {tmp_path / 'run'}".split()
    )
    saved = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    assert (saved["pad_token_id"], saved["position_offset"]) == (toy_tokenizer().pad_token_id, 1)


def test_projected_embeddings_are_refused(tmp_path):
    kind, _ = FAMILIES["electra"]
    (tmp_path / "config.json").write_text(json.dumps(kind().to_dict()))
    with pytest.raises(UserError, match="embedding_size 128 differs from hidden_size 256: only ELECTRA"):
        load_model(PrumuxForSequenceClassification, config_path=str(tmp_path), label_names=LABELS)


def test_relative_positions_are_refused(tmp_path):
    kind, _ = FAMILIES["bert"]
    (tmp_path / "config.json").write_text(
        json.dumps(kind().to_dict() | {"position_embedding_type": "relative_key"})
    )
    with pytest.raises(UserError, match="position_embedding_type is 'relative_key', expected 'absolute'"):
        load_model(PrumuxForSequenceClassification, config_path=str(tmp_path), label_names=LABELS)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    hugging_face("roberta", AutoModelForSequenceClassification, tmp_path, pad=1)
    with pytest.raises(UserError, match="pads with token 0, the model with 1: name the tokenizer"):
        run(
            f"--task_name toy --do_train --model_path {tmp_path} --num_instances 2 --output_dir {tmp_path / 'run'}"
            " --max_steps 1".split()
        )
