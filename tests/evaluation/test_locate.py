"""Tests of prumux.evaluation.locate: which model a triple means, and what the error says when there is none."""

from __future__ import annotations

import json

import pytest

from prumux.errors import UserError
from prumux.evaluation.locate import check_triple, list_models, locate, read_run, shown, training_command


def make(root, folder: str, accuracy: float | None = None, complete: bool = True) -> str:
    """A run's folder with an empty model."""
    best = root / folder / "best"
    best.mkdir(parents=True)
    (best / "config.json").write_text("{}")
    if complete:
        metrics = {} if accuracy is None else {"accuracy": accuracy}
        run = {"metrics": metrics, "main_metric": "accuracy"}
        (root / folder / "run.json").write_text(json.dumps(run))
    return str(best)


PRUNED = "SST-2/PruMUX/SST-2_sparsity0.60_2_4_0.9"


def test_the_best_finetuned_wins_over_the_pruned(tmp_path):
    make(tmp_path, PRUNED, 0.99)
    make(tmp_path, f"{PRUNED}/FT-lr1e-5", 0.80)
    best = make(tmp_path, f"{PRUNED}/FT-lr3e-5", 0.82)
    make(tmp_path, "SST-2/PruMUX/SST-2_sparsity0.60_2_3_0.5/FT-lr3e-5", 0.81)
    found = locate("SST-2", 0.6, 2, tmp_path)
    assert str(found.path) == best
    assert (found.sparsity, found.num_instances, found.finetuned, found.score) == (0.6, 2, True, 0.82)


def test_without_finetuned_the_best_pruned(tmp_path):
    make(tmp_path, PRUNED, 0.7)
    best = make(tmp_path, "SST-2/PruMUX/SST-2_sparsity0.60_2_6_0.5", 0.8)
    make(tmp_path, "SST-2/PruMUX/SST-2_sparsity0.60_5_4_0.9", 0.9)
    make(tmp_path, "SST-2/PruMUX/SST-2_sparsity0.65_2_4_0.9", 0.9)
    assert str(locate("SST-2", 0.60, 2, tmp_path).path) == best


def test_sparsity_zero_is_the_model_before_pruning(tmp_path):
    dense, muxed = make(tmp_path, "toy/dense", 0.9), make(tmp_path, "toy/mux_5", 0.8)
    make(tmp_path, "toy/retrieval_5", 0.9)
    assert str(locate("toy", 0, 1, tmp_path).path) == dense
    assert str(locate("toy", 0.0, 5, tmp_path).path) == muxed
    assert len(list_models("toy", tmp_path)) == 2


def test_unfinished_runs_are_not_taken(tmp_path):
    best = make(tmp_path, PRUNED, 0.7)
    make(tmp_path, f"{PRUNED}/FT-lr1e-5", complete=False)
    assert str(locate("SST-2", 0.6, 2, tmp_path).path) == best
    make(tmp_path, "SST-2/PruMUX/SST-2_sparsity0.90_2_4_0.9", complete=False)
    with pytest.raises(UserError, match=r"hasn't finished.*there is: sparsity 0.60 N=2\."):
        locate("SST-2", 0.9, 2, tmp_path)


def test_runs_without_the_metric_come_last_and_ties_go_by_name(tmp_path):
    make(tmp_path, f"{PRUNED}/FT-lr1e-5")
    best = make(tmp_path, f"{PRUNED}/FT-lr2e-5", 0.5)
    make(tmp_path, f"{PRUNED}/FT-lr3e-5", 0.5)
    assert str(locate("SST-2", 0.6, 2, tmp_path).path) == best


def test_the_error_lists_what_is_there_and_the_command(tmp_path):
    make(tmp_path, PRUNED, 0.7)
    make(tmp_path, "SST-2/dense", 0.9)
    with pytest.raises(UserError) as caught:
        locate("SST-2", 0.9, 5, tmp_path)
    message = str(caught.value)
    assert "no model of SST-2 with sparsity 0.90 and N=5" in message
    assert "there is: sparsity 0.00 N=1, sparsity 0.60 N=2." in message
    assert "bash scripts/run_PruMUX.sh SST-2 0.90 5" in message
    assert "\n" not in message
    with pytest.raises(UserError, match="there is: none"):
        locate("QNLI", 0.9, 5, tmp_path)


def test_commands_of_models_that_are_not_pruned():
    assert training_command("toy", 0, 1).startswith("bash scripts/run_glue.sh -N 1 -s baseline --task toy")
    assert training_command("toy", 0, 2).startswith("bash scripts/run_glue.sh -N 2 -s finetuning --task toy")


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 60, float("nan")])
def test_sparsity_out_of_range(sparsity):
    with pytest.raises(UserError, match="outside"):
        check_triple(sparsity, 2)


def test_instances_out_of_range():
    with pytest.raises(UserError, match="N is 0"):
        check_triple(0.6, 0)
    check_triple(None, None)
    check_triple(0.99, 1)


def test_run_json_that_can_not_be_read_is_no_run(tmp_path):
    best = make(tmp_path, PRUNED, 0.7)
    assert read_run(best)["main_metric"] == "accuracy"
    (tmp_path / PRUNED / "run.json").write_text('{"met')
    assert read_run(best) == {}
    (tmp_path / PRUNED / "run.json").write_text("[]")
    assert read_run(best) == {}
    assert read_run(tmp_path / "none" / "best") == {}


def test_paths_are_shown_relative_below_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "out" / "best") == "out/best"
    assert shown("/elsewhere/best") == "/elsewhere/best"
