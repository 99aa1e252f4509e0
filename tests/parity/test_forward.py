"""Logits, hidden states and losses of converted checkpoints against those that the authors' code computed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from prumux import compact
from tests.parity.recorded import GOLDEN, TOLERANCE, masks_of, meta, names, tensors


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max().item() <= tolerance


def draw(monkeypatch, instances: Tensor, positions: int) -> None:
    """Let the retrieval loss draw the recorded instances at the last ``positions`` positions."""
    recorded = instances[:, -positions:].unsqueeze(1)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: recorded)


@pytest.mark.parametrize("case", names("[ab]_*"))
@torch.no_grad()
def test_dense_forward(converted, monkeypatch, case):
    golden = tensors(case)
    model = AutoModelForSequenceClassification.from_pretrained(converted(f"{case}/checkpoint")).eval()
    ids = golden["input_ids"]
    before = ids.clone()
    # token types are not read and padding is attended, as in the authors' code
    types = torch.ones_like(ids)
    output = model(ids, golden.get("attention_mask"), token_type_ids=types, output_hidden_states=True)
    assert torch.equal(ids, before)  # theirs overwrites the caller's first tokens
    close(output.logits, golden["logits"])
    for layer, hidden in enumerate(model.bert.encode(ids).hidden_states):  # with the markers
        if f"hidden_states.{layer}" in golden:
            close(hidden, golden[f"hidden_states.{layer}"])
    if "loss" in golden:
        draw(monkeypatch, golden["retrieval_instance_labels"], ids.shape[1])
        output = model(ids, attention_mask=(ids != 0).long(), labels=golden["labels"])
        close(output.task_loss, golden["task_loss_recomputed"], 1e-5)
        if (
            "retrieval_loss_from_loss" in golden
        ):  # ours leaves out the tokens that the padding mask leaves out
            close(output.retrieval_loss, golden["retrieval_loss_from_loss"], 1e-4)
            close(output.loss, golden["loss"], 1e-4)


@pytest.mark.parametrize("case", names("d_*"))
@torch.no_grad()
def test_pruned_forward(converted, case):
    """Masked, compacted and converted: all equal the authors' PRUNED model, which differs from their masked one."""
    golden = tensors(case)
    pruned = AutoModelForSequenceClassification.from_pretrained(converted(f"{case}/best")).eval()
    close(pruned(golden["input_ids"]).logits, golden["logits_pruned"])
    for layer, hidden in enumerate(pruned.bert.encode(golden["input_ids"]).hidden_states):
        close(hidden, golden[f"hidden_states_pruned.{layer}"])


@pytest.mark.parametrize("case", names("d_*"))
@torch.no_grad()
def test_masked_equals_compacted_equals_theirs(converted, case):
    golden = tensors(case)
    folder = converted("a_index_pos_gauss_n2/checkpoint")
    dense = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if (GOLDEN / case / "best" / "pytorch_model.bin").is_file():
        import shutil

        shutil.rmtree(folder)
        source = folder.parent / "dense"
        shutil.copytree(GOLDEN / case / "best", source, ignore=shutil.ignore_patterns("zs.pt"))
        from prumux import convert_checkpoint

        convert_checkpoint(source, folder)
        dense = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    masks = masks_of(golden)
    close(dense(golden["input_ids"], masks=masks).logits, golden["logits_pruned"])
    close(compact(dense, masks)(golden["input_ids"]).logits, golden["logits_pruned"])


@pytest.mark.parametrize("case", [n for n in names("d_*") if (GOLDEN / n / "pruned_checkpoint").is_dir()])
@torch.no_grad()
def test_physically_pruned_checkpoint(converted, case):
    golden = tensors(case)
    model = AutoModelForSequenceClassification.from_pretrained(converted(f"{case}/pruned_checkpoint")).eval()
    close(model(golden["input_ids"]).logits, golden["logits_pruned"])


@pytest.mark.parametrize("case", names("c_masked_only_*"))
@torch.no_grad()
def test_one_family_of_masks(converted, case):
    """Where hidden dimensions are not masked the authors' masked model is the same as ours."""
    golden = tensors(case)
    model = AutoModelForSequenceClassification.from_pretrained(
        converted("a_index_pos_gauss_n2/checkpoint")
    ).eval()
    masks = masks_of(golden)
    logits = model(golden["input_ids"], masks=masks).logits
    if masks.hidden is None:
        close(logits, golden["logits"])
    else:  # on purpose: theirs masks neither the first embedding pass nor the keys, but prunes both
        assert (logits - golden["logits"]).abs().max() > 0.1
        close(compact(model, masks)(golden["input_ids"]).logits, logits)


@pytest.mark.parametrize("case", names("g_token_*"))
@torch.no_grad()
def test_token_classification(converted, monkeypatch, case):
    golden = tensors(case)
    model = AutoModelForTokenClassification.from_pretrained(converted(f"{case}/checkpoint")).eval()
    ids = golden["input_ids"]
    length = ids.shape[1]
    close(
        model(ids).logits, golden["logits"][:, -length:]
    )  # theirs has the prefix, too, when there are no labels
    draw(monkeypatch, golden["retrieval_instance_labels"], length)
    output = model(ids, attention_mask=(ids != 0).long(), labels=golden["labels"])
    close(output.logits, golden["logits_with_labels"])
    close(output.loss, golden["loss"], 1e-4)


@pytest.mark.parametrize("case", names("g_mlm_*"))
@torch.no_grad()
def test_masked_lm(converted, monkeypatch, case):
    golden = tensors(case)
    model = AutoModelForMaskedLM.from_pretrained(converted(f"{case}/checkpoint")).eval()
    ids, labels = golden["input_ids"], golden["labels"]
    if "index_n" in case:  # theirs cuts the rows by the length of the prefix; ours makes room for it
        ids, labels = ids[:, : -model.bert.prefix_length], labels[:, : -model.bert.prefix_length]
    draw(monkeypatch, golden["retrieval_instance_labels"], ids.shape[1])
    output = model(ids, attention_mask=(ids != 0).long(), labels=labels)
    close(output.logits, golden["logits_at_masked"])
    close(output.task_loss, golden["task_loss"], 1e-5)
    close(output.retrieval_loss, golden["retrieval_loss"], 1e-4)
    close(output.loss, golden["loss"], 1e-4)


@pytest.mark.parametrize("case", [name for name in names("c_*") if "only" not in name])
@torch.no_grad()
def test_all_families_of_masks(converted, case):
    """On purpose not theirs: OUR masked model is the one that is deployed, the compacted."""
    golden = tensors(case)
    source = re.search(r"\.\./(\w+)/checkpoint", str(meta(case)))
    folder = converted(f"{source[1] if source else 'a_index_pos_gauss_n2'}/checkpoint")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    masks = masks_of(golden)
    ours = model(golden["input_ids"], masks=masks).logits
    close(compact(model, masks)(golden["input_ids"]).logits, ours)
    assert (ours - golden["logits"]).abs().max() > 0.1


@pytest.mark.slow
def test_a_fresh_process_gives_the_recorded_logits(converted):
    cases = {f"{case}/checkpoint": (case, "logits") for case in names("[ab]_*")}
    cases |= {f"{case}/best": (case, "logits_pruned") for case in names("d_*")}
    folders = [
        (str(converted(source, f"ours{i}")), str(GOLDEN / case / "golden.safetensors"), logits)
        for i, (source, (case, logits)) in enumerate(cases.items())
    ]
    code = f"""
import torch, prumux
from transformers import AutoModelForSequenceClassification
from safetensors.torch import load_file
for folder, recorded, logits in {folders!r}:
    golden = load_file(recorded)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        print((model(golden["input_ids"]).logits - golden[logits]).abs().max().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    differences = list(map(float, done.stdout.split()))
    assert len(differences) == len(folders)
    assert max(differences) <= TOLERANCE
