"""Tests of prumux.evaluation.throughput: the protocol, the counts, the errors; speeds themselves are not compared."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from prumux import PrumuxConfig, PrumuxForSequenceClassification
from prumux.errors import UserError
from prumux.evaluation import throughput
from prumux.evaluation.throughput import check_length, measure_throughput
from prumux.inference.hardware import resolve_device, resolve_dtype


class Recorder(torch.nn.Module):
    """Notes each batch it is given in a log shared between models, and takes its time."""

    def __init__(self, name: str, log: list, num_instances: int = 1, seconds: float = 0.0) -> None:
        super().__init__()
        self.name, self.log, self.seconds = name, log, seconds
        self.config = SimpleNamespace(num_instances=num_instances, vocab_size=20, max_position_embeddings=64)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, input_ids, attention_mask):
        self.log.append((self.name, input_ids, attention_mask, self.training, self.weight.dtype))
        time.sleep(self.seconds)
        return SimpleNamespace(logits=torch.zeros(len(input_ids), 2))


def quick(models, **options):
    """Measure a tiny batch on the CPU."""
    defaults = {"batch_per_instance": 4, "length": 8, "min_seconds": 0, "device": "cpu", "progress": False}
    return measure_throughput(models, **{**defaults, **options})


def test_models_take_turns_after_an_untimed_warm_up():
    log: list = []
    models = {"a": Recorder("a", log), "b": Recorder("b", log, num_instances=3)}
    rows = quick(models, repeats=3, warmup=2)
    # two untimed passes and the one that sizes a repeat, then A B A B A B
    assert [entry[0] for entry in log] == ["a"] * 3 + ["b"] * 3 + ["a", "b"] * 3
    assert [(row["model"], row["num_instances"], row["rows"]) for row in rows] == [("a", 1, 4), ("b", 3, 12)]
    assert all(row["length"] == 8 and row["repeats"] == 3 and row["passes"] == 1 for row in rows)


def test_batches_are_random_full_and_repeatable():
    first, second, other = [], [], []
    quick({"a": Recorder("a", first, num_instances=2)}, repeats=1)
    quick({"a": Recorder("a", second, num_instances=2)}, repeats=1)
    quick({"a": Recorder("a", other, num_instances=2)}, repeats=1, seed=1)
    _, ids, mask, training, _ = first[0]
    assert ids.shape == mask.shape == (8, 8)
    assert bool((mask == 1).all())
    assert int(ids.max()) < 20
    assert not training
    assert len({tuple(row.tolist()) for row in ids}) == 8
    assert torch.equal(ids, second[0][1])
    assert not torch.equal(ids, other[0][1])


def test_examples_per_second_counts_every_row():
    rows = quick({"a": Recorder("a", [], num_instances=5, seconds=0.02)}, repeats=3)
    assert 20 / 0.2 < rows[0]["examples_per_second"] <= 20 / 0.02
    assert (
        rows[0]["examples_per_second_min"]
        <= rows[0]["examples_per_second"]
        <= rows[0]["examples_per_second_max"]
    )


def test_fast_models_run_several_passes_in_a_repeat():
    log: list = []
    rows = quick({"a": Recorder("a", log, seconds=0.005)}, repeats=2, min_seconds=0.05)
    assert 1 < rows[0]["passes"] <= 10
    assert len(log) == 2 + 2 * rows[0]["passes"]


def test_the_median_is_reported(monkeypatch):
    seconds = iter([9.0, 1.0, 4.0, 1.0, 2.0])  # warm-up, sizing, three repeats
    monkeypatch.setattr(throughput, "_time", lambda run, passes, device: next(seconds) * passes)
    (row,) = quick({"a": Recorder("a", [])}, repeats=3)
    assert row["examples_per_second"] == 4 / 2
    assert (row["examples_per_second_min"], row["examples_per_second_max"]) == (1, 4)


def test_the_models_given_are_not_changed():
    log: list = []
    model = Recorder("a", log).train()
    quick({"a": model}, repeats=1, dtype="bfloat16")
    assert model.training
    assert model.weight.dtype == torch.float32
    assert all(entry[4] == torch.bfloat16 for entry in model.log)


@pytest.mark.parametrize("options", [{"batch_per_instance": 0}, {"length": 0}, {"repeats": 0}])
def test_counts_below_one_are_refused(options):
    with pytest.raises(UserError, match="0 is too small"):
        quick({"a": Recorder("a", [])}, **options)


def test_more_tokens_than_positions_name_the_remedy():
    with pytest.raises(UserError, match="--max_seq_length 64"):
        quick({"a": Recorder("a", [])}, length=65)


def test_dtypes_and_devices():
    cpu = torch.device("cpu")
    assert resolve_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(UserError, match="float16 has no fast arithmetic on a CPU"):
        resolve_dtype("float16", cpu)
    with pytest.raises(UserError, match="float16"):
        quick({"a": Recorder("a", [])}, dtype="float16")
    with pytest.raises(UserError, match="choose one of float32"):
        resolve_dtype("int8", cpu)
    with pytest.raises(UserError, match="unknown device 'abacus'"):
        resolve_device("abacus")
    with pytest.raises(UserError, match="isn't supported"):
        resolve_device("meta")
    with pytest.raises(UserError, match="use cpu"):
        resolve_device(f"cuda:{torch.cuda.device_count()}")


@pytest.mark.parametrize("demuxing", ["index_pos", "index", "mlp"])
def test_real_models(demuxing):
    shape = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 12,
    }
    muxed = PrumuxForSequenceClassification(PrumuxConfig(num_instances=3, demuxing_variant=demuxing, **shape))
    dense = PrumuxForSequenceClassification(PrumuxConfig(**shape))
    rows = quick({"dense": dense, "muxed": muxed}, repeats=1)
    assert [row["rows"] for row in rows] == [4, 12]
    assert all(row["examples_per_second"] > 0 for row in rows)
    free = 9 if demuxing == "index" else 12  # the index demultiplexer puts N tokens before each row
    check_length(muxed, free)
    with pytest.raises(UserError, match=f"--max_seq_length {free} "):
        check_length(muxed, free + 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_models_are_measured_or_refused_with_a_remedy():
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = PrumuxForSequenceClassification(PrumuxConfig(vocab_size=50, **shape))
    try:
        (row,) = quick({"a": model}, repeats=1, compile=True)
    except UserError as error:
        assert "run without --compile" in str(error)  # noqa: PT017  (a machine without a C++ compiler)
    else:
        assert row["examples_per_second"] > 0


@pytest.mark.filterwarnings("ignore")
def test_a_failing_compilation_is_a_user_error(monkeypatch):
    def broken(model):
        def run(**batch):
            raise RuntimeError("no compiler\nmore lines")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UserError, match=r"failed for a \(no compiler\): run without --compile"):
        quick({"a": Recorder("a", [])}, compile=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_on_a_gpu(dtype):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = PrumuxForSequenceClassification(PrumuxConfig(vocab_size=50, num_instances=2, **shape))
    (row,) = quick({"a": model}, repeats=1, dtype=dtype, device="cuda")
    assert row["examples_per_second"] > 0
