"""Tests of prumux.reports.provenance: what is recorded, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from prumux.errors import UserError
from prumux.reports.provenance import atomic_file, command, provenance, write_json


def test_provenance_can_be_written_and_names_what_decides(tmp_path):
    made = json.loads(write_json(tmp_path / "p.json", provenance(seed=7)).read_text())
    assert set(made) == {"command", "versions", "hardware", "seed", "time"}
    assert made["seed"] == 7
    assert {"python", "torch", "transformers", "numpy"} <= set(made["versions"])
    assert made["hardware"]["threads"] >= 1
    assert made["hardware"]["cores"] >= 1
    assert made["hardware"]["cpu"]
    assert datetime.fromisoformat(made["time"]).utcoffset().total_seconds() == 0


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["{cwd}/evaluation.py", "SST-2", "0.60", "2"], "python evaluation.py SST-2 0.60 2"),
        (["/elsewhere/evaluation.py", "--data_dir", "my data"], "python evaluation.py --data_dir 'my data'"),
        (["/elsewhere/prumux/__main__.py", "quickstart"], "python -m prumux quickstart"),
        (["/elsewhere/bin/prumux", "quickstart"], "prumux quickstart"),
    ],
)
def test_the_command_is_what_a_user_types(argv, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [part.format(cwd=tmp_path) for part in argv])
    assert command() == expected


def test_write_json_converts_numpy_and_paths(tmp_path):
    value = {"a": np.float32(0.5), "b": np.arange(2), "c": Path("x"), "d": "±"}
    path = write_json(tmp_path / "deep" / "er" / "r.json", value)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 0.5, "b": [0, 1], "c": "x", "d": "±"}
    assert path.read_text(encoding="utf-8").endswith("}\n")
    with pytest.raises(TypeError, match="object"):
        write_json(tmp_path / "s.json", {"a": object()})


def test_a_failing_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = write_json(tmp_path / "r.json", {"old": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device; free space"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "r.txt"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_can_not_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't write .*r\.json"):
        write_json(tmp_path / "file" / "r.json", {})
