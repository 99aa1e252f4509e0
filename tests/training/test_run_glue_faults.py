"""Faults as a user of run_glue.py meets them: one line with the remedy, exit code 2, and nothing overwritten."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from prumux import PrumuxForSequenceClassification
from prumux.data.toy import toy_tokenizer
from prumux.errors import UserError, guard
from prumux.files import save_atomically
from prumux.training.phases import run

PROJECT = Path(__file__).resolve().parents[2]


QUICK = "--max_train_samples 64 --max_eval_samples 32 --max_steps 2 --disable_tqdm True --do_train"
TOY = f"--task_name toy {QUICK}"


@pytest.fixture
def shape(tmp_path) -> Path:
    """A tiny architecture."""
    fields = {
        "vocab_size": len(toy_tokenizer()),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
    }
    (tmp_path / "shape.json").write_text(json.dumps(fields))
    return tmp_path / "shape.json"


@pytest.fixture
def multiplexed(tmp_path, tiny) -> Path:
    """A checkpoint of the embedded task with N=2."""
    tokenizer, folder = toy_tokenizer(), tmp_path / "mux_2"
    config = tiny(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        num_instances=2,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    PrumuxForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def the_line(stderr: str) -> str:
    """The one line of the error, which is the last one."""
    lines = stderr.strip().splitlines()
    assert "Traceback" not in stderr
    assert [line for line in lines if line.startswith("error:")] == lines[-1:], stderr
    return lines[-1]


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Calls the entry point's guard in this process and returns the line of the error."""

    def call(flags: str, *more: str | Path) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            guard(lambda: run([*flags.split(), *map(str, more)]))
        assert stop.value.code == 2
        return the_line(capsys.readouterr().err)

    return call


@pytest.fixture
def finished(tmp_path, shape) -> Path:
    """The folder of a finished run."""
    run([*TOY.split(), "--config_name", str(shape), "--output_dir", str(tmp_path / "finished")])
    return tmp_path / "finished"


# ---- as a process


def process(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROJECT / "run_glue.py"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, **options)


@pytest.mark.slow
def test_truncated_weights_as_a_process(multiplexed, finished, tmp_path):
    weights = multiplexed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    before = snapshot(tmp_path)
    result = process(
        *TOY.split(), "--model_path", multiplexed, "--output_dir", tmp_path / "out", cwd=tmp_path
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert f"can't load the weights of {multiplexed}" in the_line(result.stderr)
    assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_a_limit_on_space_as_a_process(shape, tmp_path):
    """A limit on the size of files meets the writers as a quota does, here in PyTorch's own writer."""
    result = process(
        *TOY.split(),
        *("--config_name", shape, "--output_dir", tmp_path / "out"),
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)),
    )
    assert result.returncode == 2, result.stderr[-2000:]
    assert "free space or choose another folder" in the_line(result.stderr)
    assert not (tmp_path / "out" / "run.json").exists()


# ---- data


def test_wrong_task_names(refused, shape, tmp_path):
    for wrong in ("SST2x", "toy_nli2", "imdb"):
        line = refused(f"--task_name {wrong} {QUICK}", "--config_name", shape, "--output_dir", tmp_path / "o")
        assert wrong in line
        assert "MNLI, QNLI, QQP, SST-2" in line


def test_missing_data_files(refused, shape, tmp_path):
    common = ("--config_name", shape, "--output_dir", tmp_path / "o")
    assert "no such file" in refused(QUICK, *common, "--train_file", tmp_path / "missing.tsv")
    line = refused(f"--task_name SST-2 {QUICK}", *common, "--data_dir", tmp_path)
    assert f"{tmp_path}/SST-2/train.tsv" in line
    assert "--data_dir" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence\nfine\n", "label"),
        ("text body\tlabel\nfine\t1\n", "text body"),
        ("sentence\tlabel\nfine\t1\nbad\t7\n", "unknown label '7'"),
        ("sentence\tlabel\nfine\tpositive\nbad\tawful\n", "unknown label 'awful'"),
        ("sentence\tlabel\n", "no rows"),
        ("", "no rows"),
        ("sentence\tlabel\nfine\t\n", "line 2"),
    ],
)
def test_wrong_tables(refused, shape, tmp_path, content, message):
    (tmp_path / "SST-2").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "SST-2" / name).write_text(content)
    tokenizer = tmp_path / "tokenizer"
    toy_tokenizer().save_pretrained(tokenizer)
    before = snapshot(tmp_path)
    common = ("--config_name", shape, "--tokenizer_name", tokenizer, "--output_dir", tmp_path / "o")
    assert message in refused(f"--task_name SST-2 {QUICK}", *common, "--data_dir", tmp_path)
    own = tmp_path / "SST-2" / "train.tsv"
    line = refused(f"--task_name SST-2 {QUICK}", *common, "--train_file", own, "--validation_file", own)
    assert message in line
    assert snapshot(tmp_path) == before


def test_no_rows_asked_for(refused, shape, tmp_path):
    line = refused(f"{TOY} --max_train_samples 0", "--config_name", shape, "--output_dir", tmp_path / "o")
    assert "give at least 1" in line


@pytest.mark.parametrize("given", ["train", "validation"])
def test_half_of_the_data(refused, shape, tmp_path, given):
    (tmp_path / "rows.csv").write_text("text,label\nthe dog,a\nthe cat,b\n")
    toy_tokenizer().save_pretrained(tmp_path / "tokenizer")
    line = refused(
        QUICK,
        *("--config_name", shape, "--tokenizer_name", tmp_path / "tokenizer"),
        *(f"--{given}_file", tmp_path / "rows.csv", "--output_dir", tmp_path / "o"),
    )
    assert f"--{'validation' if given == 'train' else 'train'}_file" in line


# ---- flags and checkpoints


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--target_sparsity 1.5", "--target_sparsity is 1.5, expected a share from 0 to 0.99"),
        ("--num_instances 0", "--num_instances is 0, expected a whole number of at least 1"),
        ("--no_such_flag", "unrecognized arguments: --no_such_flag"),
        ("--setting retrieval_pretraining", "give --num_instances 2 or more"),
        ("--setting pruning", "give --model_name_or_path or --distillation_path"),
        ("--num_instances 2 --muxing_variant magic", "choose one of: binary_hadamard"),
        (
            "--num_instances 62 --per_device_train_batch_size 62 --demuxing_variant index",
            "the 62 markers of index demultiplexing leave 2 of 64 positions for a row",
        ),
    ],
)
def test_wrong_flags_touch_nothing(refused, shape, tmp_path, flags, message):
    assert message in refused(f"{TOY} {flags}", "--config_name", shape, "--output_dir", tmp_path / "o")
    assert snapshot(tmp_path) == {"shape.json": shape.read_bytes()}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--num_instances 5 --per_device_train_batch_size 10", "with num_instances 2, but 5 was asked for"),
        ("--muxing_variant random_ortho", "with muxing_variant gaussian_hadamard, but random_ortho"),
        ("--task_name toy-nli", "has the labels negative, positive"),
        ("--per_device_train_batch_size 7", "multiple of"),
        ("--setting pruning --pruning_type structured_heads --target_sparsity 0.9", "--sparsity_epsilon"),
        ("--setting pruning --lr_scheduler_type reduce_lr_on_plateau", "choose linear, constant or cosine"),
        ("--setting pruning --distillation_path missing/teacher", "missing/teacher"),
    ],
)
def test_flags_that_do_not_fit_the_checkpoint(refused, multiplexed, tmp_path, flags, message):
    before = snapshot(multiplexed)
    line = refused(f"{TOY} {flags}", "--model_path", multiplexed, "--output_dir", tmp_path / "o")
    assert message in line
    assert snapshot(multiplexed) == before
    assert not (tmp_path / "o" / "run.json").exists()


def test_a_teacher_of_another_n(refused, multiplexed, shape, tmp_path):
    line = refused(
        TOY, "--config_name", shape, "--distillation_path", multiplexed, "--output_dir", tmp_path / "o"
    )
    assert "mixes 2 inputs, the student 1" in line


def test_weights_of_another_hidden_size(refused, multiplexed, shape, tmp_path):
    shape.write_text(json.dumps(json.loads(shape.read_text()) | {"hidden_size": 32, "num_instances": 2}))
    line = refused(TOY, "--model_path", multiplexed, "--config_name", shape, "--output_dir", tmp_path / "o")
    assert "(16,), the configuration needs (32,)" in line


def test_a_vocabulary_that_is_too_small(refused, shape, tmp_path):
    shape.write_text(json.dumps(json.loads(shape.read_text()) | {"vocab_size": 20}))
    line = refused(TOY, "--config_name", shape, "--output_dir", tmp_path / "o")
    assert "the model's vocabulary 20" in line


# ---- output folders


@pytest.mark.parametrize(
    "training",
    [pytest.param(True, id="training"), pytest.param(False, id="evaluating")],
)
@pytest.mark.parametrize("place", ["a file", "below a file", "below /proc"])
def test_folders_that_can_not_be_written(refused, shape, tmp_path, place, training):
    file = tmp_path / "file"
    file.write_text("mine")
    output = {"a file": file, "below a file": file / "out", "below /proc": "/proc/prumux/out"}[place]
    flags = TOY if training else TOY.replace("--do_train", "--do_eval")
    assert str(output) in refused(flags, "--config_name", shape, "--output_dir", output)
    assert file.read_text() == "mine"


def test_the_folder_of_another_run(refused, finished, shape):
    before = snapshot(finished)
    line = refused(f"{TOY} --seed 3", "--config_name", shape, "--output_dir", finished)
    assert "other arguments (it had: fewer; now: --seed 3)" in line
    assert "--overwrite_output_dir" in line
    assert snapshot(finished) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", '{"other": 1}'),
        ("run.json", "[1]"),
        ("arguments.json", "3"),
        ("arguments.json", '{"other": 1}'),
    ],
)
def test_the_folder_of_something_else(refused, shape, tmp_path, name, content):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / name).write_text(content)
    assert "choose another --output_dir" in refused(TOY, "--config_name", shape, "--output_dir", folder)
    assert snapshot(folder) == {name: content.encode()}


def test_a_best_folder_of_unknown_origin_is_not_deleted(refused, shape, tmp_path):
    best = tmp_path / "out" / "best"
    best.mkdir(parents=True)
    (best / "model.safetensors").write_text("precious")
    assert "--output_dir" in refused(TOY, "--config_name", shape, "--output_dir", tmp_path / "out")
    assert (best / "model.safetensors").read_text() == "precious"


@pytest.mark.parametrize(
    "wrong",
    [
        "--task_name nope",
        "--config_name /missing.json",
        "--num_instances 0",
    ],
)
def test_a_mistake_beside_overwriting_overwrites_nothing(refused, finished, shape, wrong):
    before = snapshot(finished)
    refused(f"{TOY} --overwrite_output_dir", "--config_name", shape, "--output_dir", finished, *wrong.split())
    assert snapshot(finished) == before


def test_overwriting_leaves_the_users_own_files(finished, shape):
    (finished / "notes.txt").write_text("mine")
    flags = f"{TOY} --overwrite_output_dir --config_name {shape} --output_dir {finished} --seed 3"
    assert run(flags.split())["seed"] == 3
    assert (finished / "notes.txt").read_text() == "mine"


# ---- a full disk


FULL = OSError(errno.ENOSPC, "No space left on device")
FULL_SAFETENSORS = SafetensorError(
    "Error while serializing: I/O error: No space left on device (os error 28)"
)
QUOTA = SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)")
ERRORS = [
    pytest.param(FULL, id="python"),
    pytest.param(FULL_SAFETENSORS, id="safetensors"),
    pytest.param(QUOTA, id="quota"),
]


@pytest.fixture
def no_space(monkeypatch):
    """Makes the disk look as it does when ``error`` is raised: a quota leaves free space."""

    def arrange(error: Exception) -> None:
        if error is not QUOTA:
            monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))

    return arrange


@pytest.mark.parametrize("error", ERRORS)
def test_a_full_disk_while_saving(refused, multiplexed, tmp_path, monkeypatch, no_space, error):
    def full(self, folder, **_):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise error

    before = snapshot(multiplexed)
    no_space(error)
    monkeypatch.setattr(PrumuxForSequenceClassification, "save_pretrained", full)
    line = refused(TOY, "--model_path", multiplexed, "--output_dir", tmp_path / "out")
    assert "can't write" in line
    assert "free space or choose another folder" in line
    assert snapshot(multiplexed) == before
    assert not (tmp_path / "out" / "run.json").exists()
    assert not (tmp_path / "out" / "best").exists(), "half a model must not look like one"


@pytest.mark.parametrize("error", ERRORS)
def test_the_best_model_so_far_survives_a_full_disk(tmp_path, no_space, error):
    best = tmp_path / "best"
    save_atomically(best, lambda folder: (folder / "model.safetensors").write_text("good") and None)

    def full(folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise error

    no_space(error)
    with pytest.raises(UserError, match="free space"):
        save_atomically(best, full)
    assert snapshot(tmp_path) == {"best/model.safetensors": b"good"}
    save_atomically(best, lambda folder: (folder / "model.safetensors").write_text("better") and None)
    assert snapshot(tmp_path) == {"best/model.safetensors": b"better"}


def test_other_failures_while_saving_are_no_user_errors_and_spare_the_best_model(tmp_path):
    best = tmp_path / "best"
    save_atomically(best, lambda folder: (folder / "model.safetensors").write_text("good") and None)
    with pytest.raises(ZeroDivisionError):
        save_atomically(best, lambda folder: 1 / 0)
    assert snapshot(tmp_path) == {"best/model.safetensors": b"good"}


def test_half_a_character(refused, shape, tmp_path):
    rows = '{"text": "good", "label": "a"}\n{"text": "bad \\ud800", "label": "b"}\n'
    (tmp_path / "t.jsonl").write_text(rows)
    line = refused(
        f"--config_name {shape} --train_file {tmp_path / 't.jsonl'} --validation_file {tmp_path / 't.jsonl'}"
    )
    assert "item 2 holds half a character" in line


def test_evaluation_alone_does_not_care_about_the_training_batch(multiplexed, tmp_path):
    flags = f"--task_name toy --model_path {multiplexed} --max_eval_samples 8 --per_device_train_batch_size 3 --do_eval"
    assert "accuracy" in run([*flags.split(), "--output_dir", str(tmp_path / "out")])["metrics"]
