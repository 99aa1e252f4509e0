"""evaluation.py as a user calls it, on tiny untrained models: the report, the files, and each fault in one line."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from prumux import PrumuxConfig, PrumuxForSequenceClassification
from prumux.data.toy import toy_tokenizer

SCRIPT = Path(__file__).resolve().parents[1] / "evaluation.py"
PRUNED = "toy/PruMUX/toy_sparsity0.60_2_4_0.9"
QUICK = ["--batch_size", "8", "--max_seq_length", "48", "--repeats", "1", "--device", "cpu"]


def save(folder: Path, num_instances: int = 1, hidden_size: int = 16, **fields) -> Path:
    """A complete run with an untrained model in ``folder/best``."""
    tokenizer = toy_tokenizer()
    torch.manual_seed(0)
    config = PrumuxConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_instances=num_instances,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
        **fields,
    )
    model = PrumuxForSequenceClassification(config)
    model.save_pretrained(folder / "best")
    tokenizer.save_pretrained(folder / "best")
    run = {"task": "toy", "metrics": {"accuracy": 0.5}, "main_metric": "accuracy"}
    (folder / "run.json").write_text(json.dumps(run))
    return folder / "best"


@dataclass(frozen=True)
class Result:
    """What a call left behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the script as ``python evaluation.py ARGUMENTS`` does, but in this process, which has loaded torch."""

    def run(*arguments) -> Result:
        plain = (
            [] if {"--engine", "--compile"} & set(arguments) else ["--engine", "eager"]
        )  # quicker to start
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments), *plain])
        capsys.readouterr()
        code: int | str | None = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return Result(code or 0, *capsys.readouterr())

    for name in ("OUTPUT_DIR", "DATA_DIR", "TRAIN_FILE", "VALIDATION_FILE"):
        monkeypatch.delenv(name, raising=False)
    return run


def assert_refused(result: Result, *parts: str) -> None:
    """Exit code 2, nothing on the output, one line of error that holds the parts."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """An output folder with a dense, a multiplexed and a (physically smaller) pruned, finetuned model."""
    root = tmp_path_factory.mktemp("user") / "out"
    save(root / "toy/dense")
    save(root / "toy/mux_2", num_instances=2)
    kept = {"head_dim": 8, "kept_heads": [1, 0], "kept_intermediate": [12, 16]}
    save(root / PRUNED, num_instances=2, **kept)
    save(root / PRUNED / "FT-lr3e-5", num_instances=2, **kept)
    return root


def test_a_triple_beside_its_dense_baseline(call, out, monkeypatch):
    monkeypatch.chdir(out.parent)
    result = call("toy", 0.6, 2, "--output_dir", "out", "--num_groupings", 2, *QUICK)
    assert result.returncode == 0, result.stderr
    path = out / PRUNED / "FT-lr3e-5" / "evaluation.json"
    report = json.loads(path.read_text())
    dense, pruned = report["rows"]
    assert (report["task"], report["main_metric"], report["baseline"]) == ("toy", "accuracy", "dense")
    assert dense["path"] == os.path.join("out", "toy", "dense", "best")
    assert (dense["method"], pruned["method"]) == ("dense", "PruMUX")
    assert dense["speedup"] == 1.0
    assert pruned["speedup"] == pytest.approx(pruned["examples_per_second"] / dense["examples_per_second"])
    assert (dense["rows"], pruned["rows"]) == (8, 16)
    assert 0.5 < pruned["sparsity"] < 1.0
    assert pruned["parameters_without_embeddings"] < pruned["parameters"]
    assert set(pruned["metrics"]) >= {"accuracy", "accuracy_std"}
    assert pruned["score"] == pruned["metrics"]["accuracy"]
    assert report["settings"]["dtype"] == "float32"
    assert set(report["provenance"]) == {"command", "versions", "hardware", "seed", "time"}
    table = result.stdout.splitlines()
    columns = ["model", "N", "sparsity", "parameters", "accuracy", "examples/s", "speedup"]
    assert [cell.strip() for cell in table[0].split("|")[1:-1]] == columns
    assert table[3].startswith("| PruMUX ")
    assert os.path.join("FT-lr3e-5", "evaluation.json") in table[-1]
    again = call(
        "toy", 0.6, 2, "--output_dir", out, "--num_groupings", 2, *QUICK, "--json", out / "again.json"
    )
    assert again.returncode == 0, again.stderr
    rows = json.loads((out / "again.json").read_text())["rows"]
    assert [row["metrics"] for row in rows] == [dense["metrics"], pruned["metrics"]]


def test_a_model_by_path_with_another_dtype_and_a_random_baseline(call, out, tmp_path, caplog):
    model = save(tmp_path / "mine", num_instances=2, hidden_size=32)
    options = ["--dtype", "bfloat16", "--dynamic_padding", "--group_by_length", "--output_dir", out]
    result = call("--model", model, *options, *QUICK)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "mine" / "evaluation.group_by_length.json").read_text())
    dense, muxed = report["rows"]
    assert (dense["model"], muxed["model"]) == ("dense (random weights)", "DataMUX")
    assert "1 grouping(s) by length" in result.stdout
    assert dense["score"] is None
    assert dense["num_instances"] == 1
    assert (report["settings"]["dtype"], report["settings"]["dynamic_padding"]) == ("bfloat16", True)
    assert "another shape" in caplog.text


def test_baselines_by_name(call, out, tmp_path):
    config = tmp_path / "bigger.json"
    fields = json.loads((out / "toy/dense/best/config.json").read_text()) | {"num_hidden_layers": 3}
    config.write_text(json.dumps(fields))
    result = call(
        "toy", 0, 1, "--output_dir", out, "--baseline", config, *QUICK, "--json", tmp_path / "r.json"
    )
    assert result.returncode == 0, result.stderr
    baseline, dense = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert baseline["model"] == "dense (bigger, random weights)"
    assert baseline["parameters"] > dense["parameters"]
    multiplexed = call("toy", 0.6, 2, "--output_dir", out, "--baseline", out / "toy/mux_2/best", *QUICK)
    assert_refused(multiplexed, "name a model with N=1")


def test_the_dense_model_is_its_own_baseline(call, out):
    result = call("TOY", 0, 1, "--output_dir", out, *QUICK)
    assert result.returncode == 0, result.stderr
    report = json.loads((out / "toy/dense/evaluation.json").read_text())
    assert [(row["model"], row["speedup"]) for row in report["rows"]] == [("dense", 1.0)]


def test_help_and_wrong_arguments_answer_without_loading_torch():
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: evaluation.py")
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['evaluation.py', 'toy', '0.6', '0']\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    sys.exit(0 if end.code == 2 and 'torch' not in sys.modules else 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["TASK SPARSITY N"]),
        (["toy", "0.6"], ["TASK SPARSITY N"]),
        (["toy", "1.0", "2"], ["sparsity 1 is outside [0, 0.99]"]),
        (["toy", "-0.1", "2"], ["sparsity -0.1 is outside [0, 0.99]"]),
        (["toy", "nan", "2"], ["sparsity nan is outside"]),
        (["toy", "much", "2"], ["invalid float value: 'much'"]),
        (["toy", "0.6", "0"], ["num_instances is 0: give 1 or more"]),
        (["toy", "0.6", "2.5"], ["invalid int value: '2.5'"]),
        (["toy", "0.6", "2", "--repeats", "0"], ["repeats is 0: give 1 or more"]),
        (["toy", "0.6", "2", "--dtype", "int4"], ["choose from", "float32"]),
        (["toy", "0.6", "2", "--dinamic_padding"], ["did you mean '--dynamic_padding'?"]),
    ],
)
def test_wrong_arguments(call, arguments, parts):
    assert_refused(call(*arguments), *parts)


def test_wrong_task_name(call):
    assert_refused(call("SST-3", 0.6, 2), "SST-3", "SST-2", "toy-nli")


def test_no_such_model(call, out):
    result = call("toy", 0.9, 5, "--output_dir", out)
    assert_refused(result, "sparsity 0.90 and N=5", "sparsity 0.60 N=2", "run_PruMUX.sh toy 0.90 5")
    assert_refused(call("toy", "--model", out / "nowhere"), "no config.json")


def test_a_model_of_another_n(call, out):
    assert_refused(call("toy", 0.6, 5, "--model", out / PRUNED / "best"), "trained with N=2, not N=5")


def test_more_tokens_than_positions(call, out):
    result = call("toy", 0.6, 2, "--output_dir", out, "--max_seq_length", 65)
    assert_refused(result, "--max_seq_length 64")


def test_float16_on_a_cpu(call, out):
    result = call("toy", 0.6, 2, "--output_dir", out, "--dtype", "float16", "--device", "cpu")
    assert_refused(result, "float16", "use float32 or bfloat16")


@pytest.mark.parametrize("keep", [0, 4, 1000, -10])
def test_a_truncated_safetensors_file(call, tmp_path, keep):
    model = save(tmp_path / "run", num_instances=2)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert_refused(call("toy", "--model", model), "damaged or incomplete")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_pickle_is_not_a_model(call, tmp_path):
    model = save(tmp_path / "run")
    (model / "model.safetensors").unlink()
    torch.save({"weight": torch.ones(1)}, model / "pytorch_model.bin")
    assert_refused(call("toy", "--model", model), "model.safetensors")


def test_a_broken_config_and_missing_weights(call, tmp_path):
    from safetensors.torch import load_file, save_file

    model = save(tmp_path / "run")
    weights = load_file(model / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "classifier" not in k}, model / "model.safetensors")
    assert_refused(call("toy", "--model", model), "no weights for classifier")
    (model / "config.json").write_text('{"num_ins')
    assert_refused(call("toy", "--model", model), "config.json", "damaged or incomplete")


def test_a_result_that_can_not_be_written_is_still_shown(call, out, tmp_path):
    (tmp_path / "file").write_text("")
    result = call("toy", 0, 1, "--output_dir", out, "--json", tmp_path / "file" / "r.json", *QUICK)
    assert result.returncode == 2
    assert result.stdout.startswith("| model")
    assert result.stderr.strip().splitlines()[-1].startswith("error: can't write")


@pytest.mark.slow
def test_as_a_process_of_its_own(out, tmp_path):
    command = [sys.executable, str(SCRIPT), "toy", "0.6", "2", "--output_dir", str(out)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    good = subprocess.run(
        [*command, *QUICK, "--json", str(tmp_path / "r.json")],
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    assert good.stdout.startswith("| model")
    assert json.loads((tmp_path / "r.json").read_text())["provenance"]["hardware"]["threads"] == 1
    bad = subprocess.run(
        [*command, "--model", "nowhere"], capture_output=True, text=True, env=env, check=False
    )
    assert_refused(Result(bad.returncode, bad.stdout, bad.stderr), "no config.json")


def test_own_files(call, out, tmp_path):
    rows = ["text,label", *["a good film,positive", "a bad film,negative"] * 3]
    (tmp_path / "dev.csv").write_text("\n".join(rows) + "\n")
    options = ["--model", out / "toy/dense/best", "--output_dir", out, "--json", tmp_path / "r.json"]
    result = call("mine", "--validation_file", tmp_path / "dev.csv", *options, *QUICK)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["task"] == "mine"
    assert report["rows"][-1]["score"] is not None
    (tmp_path / "bad.csv").write_text("text,label\na film,splendid\n")
    result = call("mine", "--validation_file", tmp_path / "bad.csv", *options, *QUICK)
    assert_refused(result, "splendid")
    assert_refused(call("mine", "--validation_file", tmp_path / "none.csv", *options), "no such file")
