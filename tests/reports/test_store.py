"""The results store: whole lines from several writers, and what a kill leaves behind."""

from __future__ import annotations

import json
import multiprocessing

from prumux.reports import store
from prumux.reports.store import VARIABLE, append, checkpoint_hash, read_lines, store_path


def write_many(path, name):
    for i in range(50):
        append("evaluation", {"writer": name, "i": i, "padding": "x" * 3000}, 0, path)


def test_two_writers(tmp_path):
    file = tmp_path / "runs.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(file, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted((line["writer"], line["i"]) for line in lines) == [(n, i) for n in "ab" for i in range(50)]
    assert lines[0]["provenance"]["versions"]


def test_a_line_that_a_killed_writer_left(tmp_path, caplog):
    file = tmp_path / "runs.jsonl"
    append("evaluation", {"i": 0}, 0, file)
    with file.open("a") as stream:
        stream.write('{"kind": "evaluation", "i": 1, "acc')
    append("evaluation", {"i": 2}, 0, file)
    assert [line["i"] for line in read_lines([file])] == [0, 2]
    assert "line 2 is no whole JSON line" in caplog.text


def test_a_writer_that_waited_for_one_that_was_killed_in_its_first_line(tmp_path, monkeypatch):
    """The file was empty when it was opened, and holds half a line when the lock is free."""
    file = tmp_path / "runs.jsonl"
    lock = store._lock

    def locked_late(descriptor):
        with file.open("a") as other:
            other.write('{"kind": "evaluation", "acc')
        lock(descriptor)

    monkeypatch.setattr(store, "_lock", locked_late)
    append("evaluation", {"i": 1}, 0, file)
    assert [line["i"] for line in read_lines([file])] == [1]


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    assert store_path().as_posix() == "results/runs.jsonl"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine.jsonl"))
    append("pruning", {}, 0)
    assert (tmp_path / "mine.jsonl").is_file()
    monkeypatch.setenv(VARIABLE, "")
    append("pruning", {}, 0)
    assert store_path() is None


def test_a_store_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    append("pruning", {}, 0, tmp_path / "file" / "runs.jsonl")
    assert "is not recorded" in caplog.text


def test_the_hash_of_the_weights(tmp_path):
    assert checkpoint_hash(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    assert checkpoint_hash(tmp_path) == "ba7816bf8f01cfea"
