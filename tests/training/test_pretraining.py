"""Warm-up and masked-token training on plain text: separate losses, slots, the end when it is solved."""

from __future__ import annotations

import json

import pytest
import torch

from prumux import PrumuxForTokenClassification, UserError
from prumux.data.toy import toy_tokenizer
from prumux.training.phases import run
from prumux.training.pretraining import MaskingCollator


@pytest.fixture
def go(tmp_path):
    words = "the plot was good the cast was bad a film with funny moments and a boring end".split()
    lines = [" ".join(words[(i * 7 + j) % len(words)] for j in range(9)) for i in range(200)]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    shape = {
        "vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 40, "gaussian_hadamard_norm": 5.0, "embed_twice": False,
    }  # fmt: skip
    (tmp_path / "shape.json").write_text(json.dumps(shape))
    toy_tokenizer().save_pretrained(tmp_path / "tokenizer")

    def call(setting: str, flags: str = "") -> dict:
        return run(
            f"--setting {setting} --train_file {tmp_path / 'text.txt'} --config_name {tmp_path / 'shape.json'} "
            f"--tokenizer_name {tmp_path / 'tokenizer'} --num_instances 2 --max_seq_length 16 --learning_rate 5e-3 "
            f"--per_device_train_batch_size 16 --per_device_eval_batch_size 4 --eval_strategy steps --eval_steps 20 "
            f"--save_strategy no --disable_tqdm True --do_train {flags} --output_dir {tmp_path / setting}".split()
        )

    return call


def test_the_warm_up_ends_when_it_is_solved(go):
    record = go("retrieval_pretraining", "--max_steps 400 --stop_at_retrieval_accuracy 0.9")
    assert record["task"] == "text"
    assert record["steps"] < 400
    metrics = record["metrics"]
    assert record["main_metric"] == "retrieval_accuracy"
    assert metrics["retrieval_accuracy"] >= 0.9
    slots = [metrics[f"retrieval_accuracy_slot_{i}"] for i in range(2)]
    assert min(slots) <= metrics["retrieval_accuracy"] <= max(slots)


def test_masked_tokens_and_retrieval_are_reported_apart(go):
    record = go(
        "mlm_pretraining",
        "--max_steps 40 --retrieval_loss_coeff 0.5 --mlm_probability 0.3 --logging_steps 20",
    )
    assert record["main_metric"] == "negative_mlm_loss"
    assert {"negative_mlm_loss", "retrieval_loss", "retrieval_accuracy"} <= set(record["metrics"])
    logged = next(entry for entry in record["history"] if "loss" in entry)
    assert logged["loss"] == pytest.approx(logged["task"] + 0.5 * logged["retrieval"], rel=1e-3)


def test_refused(go):
    with pytest.raises(
        UserError, match=r"stop_at_retrieval_accuracy is 1\.5, expected a share above 0 up to 1"
    ):
        go("retrieval_pretraining", "--stop_at_retrieval_accuracy 1.5")
    with pytest.raises(UserError, match="stop_at_retrieval_accuracy is never reached: it needs"):
        go("mlm_pretraining", "--stop_at_retrieval_accuracy 0.9")
    with pytest.raises(UserError, match="nothing outside --setting retrieval_pretraining"):
        go("finetuning", "--stop_at_retrieval_accuracy 0.9")
    with pytest.raises(UserError, match="there is no loss"):
        go("retrieval_pretraining", "--retrieval_loss_coeff 0")
    with pytest.raises(UserError, match="there is no loss"):
        go("mlm_pretraining", "--task_loss_coeff 0")


def test_nothing_masked(go):
    with pytest.raises(UserError, match="no token of text's 2 development rows was masked"):
        go("mlm_pretraining", "--mlm_probability 1e-6 --max_steps 1 --max_eval_samples 2")


def test_the_batch_decides_what_is_masked():
    """Not what was drawn before it: a resumed run goes on as the uninterrupted one would have."""
    tokenizer = toy_tokenizer()
    rows = [{"input_ids": tokenizer("the plot was good and the cast was bad")["input_ids"]} for _ in range(4)]
    rows[3] = {"input_ids": tokenizer("the cast was bad and the plot was good")["input_ids"]}

    def masked(seed: int, chosen: list[int]) -> torch.Tensor:
        torch.rand(1)
        return MaskingCollator(tokenizer, 2, 0.3, seed)([rows[i] for i in chosen])["labels"]

    assert (masked(1, [0, 1]) == masked(1, [0, 1])).all()
    assert (masked(1, [0, 1]) != masked(2, [0, 1])).any()
    assert (masked(1, [0, 1])[0] != masked(1, [0, 3])[0]).any()  # new neighbours, new masks


def test_plain_text_is_text_whatever_the_model_was_before(tmp_path, go, tiny):
    config = tiny(vocab_size=120, num_instances=2, max_position_embeddings=40)
    PrumuxForTokenClassification(config).save_pretrained(tmp_path / "ner")
    toy_tokenizer().save_pretrained(tmp_path / "ner")
    record = run(
        f"--setting mlm_pretraining --train_file {tmp_path / 'text.txt'} --model_path {tmp_path / 'ner'} --max_steps 2 "
        f"--max_seq_length 16 --per_device_train_batch_size 16 --save_strategy no --disable_tqdm True --do_train "
        f"--output_dir {tmp_path / 'lm'}".split()
    )
    assert (record["task"], record["main_metric"]) == ("text", "negative_mlm_loss")


@pytest.mark.parametrize(
    "limit", ["--max_train_samples -5", "--max_train_samples 0", "--max_eval_samples -1"]
)
def test_limits_below_one(go, limit):
    with pytest.raises(UserError, match="give at least 1, or leave the limit out"):
        go("retrieval_pretraining", f"--max_steps 2 {limit}")
