"""`GridConfig`, `read_grid`: what a grid's YAML file says, checked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from prumux.errors import UserError
from prumux.evaluation.report import Settings
from prumux.pruning.accounting import MAX_SPARSITY
from prumux.training.recipes import get_task_name

PROJECT = Path(__file__).resolve().parents[2]
SWITCHES = ("dynamic_padding", "group_by_length", "compile")  # of evaluation.py: there or not


@dataclass(frozen=True)
class GridConfig:
    """What a grid's YAML file says; every value has the meaning of the flag of run_glue.py of that name.

    Attributes:
        tasks: task -> where its data are (data_dir, or train_file and validation_file; nothing: the hub), and its own
            ``flags`` of training.
        model, config: pretrained weights, or the architecture of random ones (then the dense model stands for them).
        num_instances, sparsity: the grid. layers: rivals, the first layers of the encoder alone.
        layer_distill_version, alphas, learning_rate: tried for every pruned point (paper table 5 and 6); alphas are
            pairs (layer, CE), learning_rate is that of finetuning after pruning. Nothing: the recipe's.
        seeds: every one repeats the whole grid in a folder of its own.
        in_one_run: prune through all sparsities in one run instead of one run each.
        flags: more flags of every training run. evaluation: flags of evaluation.py.
    """

    tasks: dict[str, dict[str, Any]]
    num_instances: list[int]
    sparsity: list[float]
    output_dir: str = "out/grid"
    model: str | None = None
    config: str | None = None
    recipe: str = "configs/recipes/prumux.yaml"
    layers: list[int] = field(default_factory=list)
    layer_distill_version: list[int] = field(default_factory=lambda: [4])
    alphas: list[list[float]] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [57])
    in_one_run: bool = False
    flags: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)


def read_grid(path: str | Path) -> GridConfig:
    """A grid's file.

    Raises:
        UserError: unreadable, unknown or missing keys, values of a wrong kind or range.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"can't read the grid {path} ({error}): expected a YAML file as in configs/grids"
        ) from error
    if not isinstance(values, dict):
        raise UserError(
            f"the grid {path} holds no mapping: expected keys such as tasks, num_instances, sparsity"
        )
    known = {f.name for f in fields(GridConfig)}
    unknown, missing = (
        {str(key) for key in values} - known,
        {"tasks", "num_instances", "sparsity"} - set(values),
    )
    if unknown or missing:
        wrong = (
            f"unknown: {', '.join(sorted(unknown))}" if unknown else f"missing: {', '.join(sorted(missing))}"
        )
        raise UserError(f"the grid {path} has wrong keys ({wrong}): expected {', '.join(sorted(known))}")
    try:
        if isinstance(values["tasks"], list):
            if odd := [task for task in values["tasks"] if not isinstance(task, str)]:
                raise TypeError(f"tasks holds {odd[0]!r}, expected names")
            values["tasks"] = dict.fromkeys(values["tasks"])
        if not isinstance(values["tasks"], dict):
            raise TypeError(f"tasks is {values['tasks']!r}, expected a list of tasks or a mapping")
        for task, data in values["tasks"].items():
            if not isinstance(data, dict | None):
                raise TypeError(f"{task} is {data!r}, expected keys such as data_dir")
        for name in ("output_dir", "recipe", "model", "config"):
            if name in values and not isinstance(values[name], str):
                raise TypeError(f"{name} is {values[name]!r}, expected a path")
        for name in ("flags", "evaluation"):
            if name in values and not isinstance(values[name], dict):
                raise TypeError(f"{name} is {values[name]!r}, expected a mapping of flags to values")
        if not isinstance(values.get("in_one_run", False), bool):
            raise TypeError(f"in_one_run is {values['in_one_run']!r}, expected true or false")
        named = [get_task_name(str(task)) for task in values["tasks"]]
        if len(set(named)) < len(named):
            raise ValueError("a task is there twice")
        values["tasks"] = {
            name: dict(data or {}) for name, data in zip(named, values["tasks"].values(), strict=True)
        }
        for name, kind in (
            ("num_instances", int), ("sparsity", float), ("layers", int), ("layer_distill_version", int),
            ("learning_rate", float), ("seeds", int),
        ):  # fmt: skip
            if name in values:
                given = values[name] if isinstance(values[name], list) else [values[name]]
                values[name] = sorted({_number(name, value, kind) for value in given})
        values["alphas"] = [_pair(pair) for pair in values.get("alphas", [])]
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"the grid {path} has a value of a wrong kind ({error}): see configs/grids"
        ) from error
    grid = GridConfig(**values)
    _check(grid, path)
    return grid


def _number(name: str, value: Any, kind: type) -> Any:
    if isinstance(value, bool) or (kind is int and float(value) != int(float(value))):
        raise ValueError(f"{name} holds {value!r}, expected {'whole numbers' if kind is int else 'numbers'}")
    return kind(value)


def _pair(pair: Any) -> list[float]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise TypeError(f"alphas holds {pair!r}, expected pairs such as [0.9, 0.1]")
    return [float(value) for value in pair]


def _check(grid: GridConfig, path: Path) -> None:
    def require(condition: bool, what: str) -> None:
        if not condition:
            raise UserError(f"the grid {path}: expected {what}")

    require(bool(grid.tasks), "at least one task")
    for task, values in grid.tasks.items():
        unknown = set(values) - {"data_dir", "train_file", "validation_file", "flags"}
        require(
            not unknown,
            f"data_dir, train_file, validation_file or flags of {task}, not {', '.join(sorted(unknown))}",
        )
        require(isinstance(values.get("flags", {}), dict), f"a mapping of flags to values for {task}")
    require(bool(grid.num_instances) and grid.num_instances[0] >= 1, "num_instances from 1 on")
    require(
        bool(grid.sparsity) and grid.sparsity[0] >= 0 and grid.sparsity[-1] <= MAX_SPARSITY,
        f"sparsity 0 to {MAX_SPARSITY}",
    )
    require(
        (grid.model is None) != (grid.config is None), "either model (weights) or config (random weights)"
    )
    require(all(layers >= 1 for layers in grid.layers), "layers from 1 on")
    require(bool(grid.seeds and grid.layer_distill_version), "no empty list")
    known = {setting.name for setting in fields(Settings)}
    unknown = set(grid.evaluation) - known
    require(
        not unknown, f"of evaluation {', '.join(sorted(known))}, not {', '.join(sorted(map(str, unknown)))}"
    )
    try:
        Settings(**grid.evaluation)
    except UserError as error:
        raise UserError(f"the grid {path}, evaluation: {error}") from error


def project_file(path: str) -> Path:
    """A file of the project, wherever the command is called."""
    return Path(path) if Path(path).exists() or not (PROJECT / path).exists() else PROJECT / path
