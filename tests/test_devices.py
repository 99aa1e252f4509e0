"""Nothing stays behind on the CPU when a model is on another device.

There needn't be an accelerator: the models are put on PyTorch's "meta" device, on which operations compute nothing, and
every operation is watched for tensors of two devices.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.fx.experimental._config
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prumux import L0Gates, PrumuxConfig, PrumuxForSequenceClassification, PrumuxForTokenClassification
from prumux.inference import engine
from prumux.inference.forward import FastForward
from prumux.models.demultiplexers import DEMULTIPLEXERS
from prumux.models.multiplexers import MULTIPLEXERS
from prumux.pruning import scores
from prumux.pruning.distillation import LayerMap
from prumux.pruning.gates import Gates
from prumux.pruning.scores import ScoreGates
from prumux.training.distilled import Distilled

DEVICE = torch.device("meta")
HEADS = (PrumuxForSequenceClassification, PrumuxForTokenClassification)
SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40, "num_labels": 3,
}  # fmt: skip
variants = pytest.mark.parametrize(
    ("muxing", "demuxing"), list(itertools.product(sorted(MULTIPLEXERS), sorted(DEMULTIPLEXERS)))
)


def _counts(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.dim() > 0 or value.device == DEVICE)


class OneDevice(TorchDispatchMode):
    """Refuses what an accelerator refuses: an operation on tensors of two devices (numbers of the CPU are allowed).

    What is copied to the CPU, to decide by its values, is 1 there.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        devices = {v.device.type for v in tree_leaves((args, kwargs)) if _counts(v)}
        name = func._schema.name
        if (
            name == "aten::_to_copy"
            and args[0].device == DEVICE
            and kwargs.get("device") == torch.device("cpu")
        ):
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if name == "aten::_local_scalar_dense" and args[0].device == DEVICE:
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        copies = name in ("aten::_to_copy", "aten::copy_")
        assert copies or len(devices) < 2, f"{func} on {' and '.join(sorted(devices))}"
        return func(*args, **kwargs)


def model_of(head: type, muxing: str = "gaussian_hadamard", demuxing: str = "index_pos", n: int = 2) -> Any:
    return head(PrumuxConfig(**SIZES, num_instances=n, muxing_variant=muxing, demuxing_variant=demuxing))


def rows(labels: bool = True) -> dict[str, Tensor]:
    ids = torch.zeros(6, 8, dtype=torch.long, device=DEVICE)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    return batch | ({"labels": torch.zeros(6, dtype=torch.long, device=DEVICE)} if labels else {})


def test_the_watch_sees_two_devices() -> None:
    with OneDevice(), pytest.raises(AssertionError, match="cpu and meta"):
        nn.functional.embedding(torch.zeros(3, dtype=torch.long), torch.ones(2, 2, device=DEVICE))


@variants
@pytest.mark.parametrize("head", HEADS)
def test_forward_and_backward_of_every_variant(head: type, muxing: str, demuxing: str) -> None:
    model = model_of(head, muxing, demuxing).to(DEVICE).train()
    with OneDevice():
        logits = model(**rows(labels=False)).logits
        logits.sum().backward()
    assert logits.device == DEVICE


@variants
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_fast_forward_of_every_variant(
    head: type, muxing: str, demuxing: str, dtype: torch.dtype
) -> None:
    forward = FastForward(model_of(head, muxing, demuxing).eval(), dtype, False).to(DEVICE)
    ids = torch.zeros(3, 2, 8, dtype=torch.long, device=DEVICE)
    with OneDevice(), torch.inference_mode():
        for types in (None, ids):
            assert forward(ids, torch.ones_like(ids, dtype=torch.bool), types).device == DEVICE


def test_an_engine_takes_rows_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine.TOKENS_PER_CHUNK, DEVICE.type, 16)
    monkeypatch.setattr(
        engine, "logit_difference", lambda *args, **kwargs: 0.0
    )  # there are no logits to compare
    model = model_of(PrumuxForSequenceClassification).eval()
    run = engine.InferenceEngine(
        model, torch.float16, DEVICE, int8=False, tokenizer=None, chunk_groups=None, buckets=None, compile=False,
        progress=False,
    )  # fmt: skip
    ids = torch.ones(7, 8, dtype=torch.long)  # the last group is not full
    with OneDevice():
        for mask, types in ((None, None), (ids, ids - 1), (ids, ids % 2)):
            logits = run(ids, mask, types)
            assert (logits.device, logits.shape) == (DEVICE, (7, 3))


@pytest.mark.parametrize(
    "states", [True, False], ids=["states of a dense teacher", "layers of a multiplexed one"]
)
@pytest.mark.parametrize("gates", [L0Gates, ScoreGates])
@torch.fx.experimental._config.patch(meta_nonzero_assume_all_nonzero=True)
def test_a_pruning_step(
    gates: Callable[[PrumuxConfig], Gates], states: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "LOOK_EVERY", 1)
    student = model_of(PrumuxForSequenceClassification)
    teacher = model_of(PrumuxForSequenceClassification, n=1 if states else 2).to(DEVICE).eval()
    width = student.config.hidden_size
    distilled = Distilled(student, LayerMap(None, width, width), gates(student.config), states=states).to(
        DEVICE
    )
    step: Callable[..., dict[str, Tensor]] = distilled.train()
    with OneDevice():
        with torch.no_grad():
            said = teacher(**rows(labels=False), output_hidden_states=True)
        distilled.gates.clamp_()
        terms = step(
            rows(), said, pruning=True, target=0.5, version=4, temperature=2.0, layer_alpha=0.9, ce_alpha=0.1,
            task_alpha=1.0,
        )  # fmt: skip
        terms["loss"].backward()
    assert terms["loss"].device == DEVICE
