"""A grid's file becomes commands that run_glue.py and evaluation.py understand, in an order that can be run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from prumux.errors import UserError
from prumux.grid.config import PROJECT, read_grid
from prumux.grid.plan import plan
from prumux.training.parsing import parse_arguments

TOY = {
    "tasks": ["toy", "toy-nli"], "num_instances": [1, 2], "sparsity": [0, 0.4, 0.6],
    "config": "configs/models/toy.json",
    "recipe": "configs/recipes/quickstart.yaml", "layers": [1], "learning_rate": [5e-4, 1e-4],
}  # fmt: skip


def written(tmp_path, **changes) -> Path:
    file = tmp_path / "grid.yaml"
    values = {key: value for key, value in {**TOY, **changes}.items() if value is not None}
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.mark.parametrize("in_one_run", [False, True])
def test_every_command_parses_and_follows_what_it_needs(tmp_path, monkeypatch, in_one_run):
    monkeypatch.chdir(tmp_path)
    jobs = plan(read_grid(written(tmp_path, in_one_run=in_one_run)))
    seen = set()
    for job in jobs:
        assert set(job.needs) <= seen, job.name
        assert job.name not in seen
        seen.add(job.name)
        if job.trains:
            parse_arguments(job.argv)
    toy = [job for job in jobs if job.task == "toy"]
    assert len(toy) == len(jobs) / 2
    kinds = [job.argv[job.argv.index("--setting") + 1] for job in toy if job.trains]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "baseline": 1, "pruning": 2 if in_one_run else 4, "finetuning": 1 + 1 + 8,
    }  # fmt: skip
    assert sum(not job.trains for job in toy) == 1 + 1 + 1 + 4  # dense, one layer, mux, four pruned points


def test_seeds_have_folders_of_their_own(tmp_path):
    jobs = plan(read_grid(written(tmp_path, seeds=[1, 2], tasks=["toy"])))
    assert len({job.result for job in jobs}) == len(jobs)
    assert {job.argv[job.argv.index("--seed") + 1] for job in jobs if job.trains} == {"1", "2"}


def test_flags_of_one_task(tmp_path):
    tasks = {"toy": {"flags": {"num_train_epochs": 7}}, "toy-nli": None}
    jobs = plan(read_grid(written(tmp_path, tasks=tasks)))
    assert {job.task for job in jobs if "--num_train_epochs" in job.argv} == {"toy"}
    assert not any("--num_train_epochs" in job.argv for job in jobs if not job.trains)


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "configs" / "grids").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_grids_that_come_with_the_project(path):
    assert plan(read_grid(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": None}, "missing: sparsity"),
        ({"sparsities": [0.5]}, "unknown: sparsities"),
        ({"sparsity": [60]}, "sparsity 0 to 0.99"),
        ({"num_instances": [0]}, "num_instances from 1 on"),
        ({"num_instances": ["two"]}, "value of a wrong kind"),
        ({"num_instances": [float("inf")]}, "value of a wrong kind"),
        ({"tasks": []}, "at least one task"),
        (
            {"tasks": {"toy": {"folder": "x"}}},
            "data_dir, train_file, validation_file or flags of toy, not folder",
        ),
        ({"model": "x"}, "either model"),
        (
            {"alphas": [[0.9, 0.1], [0.9, 0.5]]},
            "gives two runs the folder of toy/PruMUX/toy_sparsity0.40_1_4_0.9",
        ),
        ({"flags": ["a"]}, "flags is .*expected a mapping"),
        ({"output_dir": 5}, "output_dir is 5, expected a path"),
        ({"tasks": [{"toy": {}}]}, "value of a wrong kind"),
        ({"in_one_run": "maybe"}, "expected true or false"),
        ({"tasks": "toy"}, "tasks is 'toy', expected a list"),
        ({"tasks": {"toy": "folder"}}, "toy is 'folder', expected keys such as data_dir"),
        ({"tasks": ["toy", "TOY"]}, "a task is there twice"),
        ({"alphas": [0.9, 0.1]}, r"alphas holds 0.9, expected pairs such as \[0.9, 0.1\]"),
        ({"num_instances": [2.5]}, "num_instances holds 2.5, expected whole numbers"),
        ({"seeds": [True]}, "seeds holds True, expected whole numbers"),
        ({"evaluation": {"grouping": 5}}, "of evaluation .*num_groupings.*, not grouping"),
        ({"evaluation": {"compile": "yes"}}, "true or false for compile"),
        ({"evaluation": {"dtype": "float8"}}, "unknown dtype 'float8': choose one of float32"),
        ({"evaluation": {"engine": "slow"}}, "unknown engine 'slow'"),
        ({"evaluation": {"repeats": -1}}, "a whole number from 1 on for repeats, not -1"),
        ({"evaluation": {"batch_size": "foo"}}, "a whole number from 1 on for batch_size, not 'foo'"),
        ({"recipe": "missing.yaml"}, "can't read the recipe"),
    ],
)
def test_one_clear_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        plan(read_grid(written(tmp_path, **changes)))


def test_no_grid(tmp_path):
    with pytest.raises(UserError, match="can't read the grid"):
        read_grid(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="holds no mapping"):
        read_grid(tmp_path / "list.yaml")


def test_what_the_grid_leaves_open_is_the_recipes(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "pruning: {distill_ce_loss_alpha: 0.7, distill_layer_loss_alpha: 0.2}\n"
        "finetuning_pruned: {learning_rate: 2.0e-4, distill_ce_loss_alpha: 0.7, distill_layer_loss_alpha: 0.2}\n"
    )
    jobs = plan(read_grid(written(tmp_path, recipe=str(recipe), tasks=["toy"], learning_rate=None)))
    tuned = [job for job in jobs if "FT-lr" in job.name]
    assert tuned
    for job in tuned:
        assert "FT-lr0.0002" in job.name
        arguments = parse_arguments(job.argv)
        assert arguments.pruning.distill_ce_loss_alpha == 0.7
        assert arguments.pruning.distill_layer_loss_alpha == 0.2
        assert arguments.training.learning_rate == 2e-4


def test_a_recipe_may_say_something_else_of_each_number_of_instances(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "pruning: {distill_ce_loss_alpha: 1.0, num_instances_1: {distill_ce_loss_alpha: 0.3}}\n"
        "finetuning_pruned:\n"
    )
    jobs = plan(read_grid(written(tmp_path, recipe=str(recipe), tasks=["toy"], learning_rate=None)))
    pruning = [job for job in jobs if job.trains and "pruning" in job.argv]
    assert {(job.num_instances, parse_arguments(job.argv).pruning.distill_ce_loss_alpha) for job in pruning} == {
        (1, 0.3), (2, 1.0),
    }  # fmt: skip
    recipe.write_text("pruning: {distill_layer_loss_alpha: '0,1'}\nfinetuning_pruned: {}\n")
    with pytest.raises(UserError, match="distill_layer_loss_alpha is '0,1', expected a number"):
        plan(read_grid(written(tmp_path, recipe=str(recipe))))


def test_tasks_are_spelled_as_evaluation_spells_them(tmp_path):
    assert list(read_grid(written(tmp_path, tasks=["sst2", "Mine"])).tasks) == ["SST-2", "Mine"]


def test_a_third_decimal_has_a_folder_of_its_own_and_switches_may_be_off(tmp_path):
    """Auto-PruMUX suggests sparsities between the measured ones."""
    jobs = plan(read_grid(written(tmp_path, sparsity=[0.9, 0.925], evaluation={"dynamic_padding": False})))
    assert any(job.name.startswith("toy/PruMUX/toy_sparsity0.925_") for job in jobs)
    assert not any("dynamic_padding" in part for job in jobs for part in job.argv)
    jobs = plan(read_grid(written(tmp_path, evaluation={"group_by_length": True})))
    assert all("--group_by_length" in job.argv for job in jobs if job.script == "evaluation.py")
