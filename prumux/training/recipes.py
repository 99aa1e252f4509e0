"""Recipe files: the defaults that a YAML section per phase gives to the flags of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from prumux.data.tasks import get_task
from prumux.errors import UserError
from prumux.models.architecture import read_config
from prumux.models.configuration import PrumuxConfig
from prumux.models.loading import FIXED_BY_WEIGHTS

MADE_WITH = (*FIXED_BY_WEIGHTS, "separate_instances", "narrow_first")
PRUNED = "PruMUX"  # the folder of pruned models, in the scripts and in grids
SMALL_TASKS = ("MRPC", "RTE", "STS-B", "CoLA")  # the papers train these longer


def read_recipe(path: Path) -> dict[str, Any]:
    """The sections of a recipe.

    Raises:
        UserError: no YAML file, or one without sections.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(recipe, dict):
            raise ValueError(f"it holds {recipe!r:.40}")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"can't read the recipe {path} ({error}): expected a YAML file with a section per phase"
        ) from error
    return recipe


def recipe_defaults(first: Any, known: Collection[str], instances: int) -> dict[str, Any]:
    """What the run's recipe says of its phase, as text: checked like the command line's values.

    Args:
        first: the flags of the command line over the defaults. known: names of flags that a recipe may give.
        instances: N of the run.

    Raises:
        UserError: an unreadable recipe, one without the section, or with anything in it that is no flag's value.
    """
    path = Path(first.recipe)
    recipe = read_recipe(path)
    name = first.setting
    if name == "baseline":
        name = "finetuning"
    elif name == "finetuning" and first.distillation_path is not None and _may_be_pruned(first):
        name = "finetuning_pruned"
    elif name == "finetuning" and first.distillation_path is not None and instances == 1:
        smaller = "distillation" if first.narrow_for is None else "narrow"
        name = smaller if smaller in recipe else name
    section = resolved(recipe, name, instances, first.task_name, path)
    multiplexed = (_local_config(first.model_name_or_path) or {}).get("num_instances", 1) > 1
    usual = section.get("muxing_variant", PrumuxConfig().muxing_variant)
    other = first.muxing_variant is not None and first.muxing_variant != usual
    without_weights = first.model_name_or_path is None and section.get("separate_instances")
    if multiplexed or other or without_weights or instances == 1:
        # how a model multiplexes is settled by its weights or by the user; a recipe says how to make one of a plain one
        # but nothing of that itself: another recipe may start from it
        section = {flag: value for flag, value in section.items() if flag not in MADE_WITH}
    for flag, value in section.items():
        if flag not in known:
            raise UserError(f"recipe {path}, section {name}: unknown flag '{flag}', see run_glue.py --help")
        if not isinstance(value, str | int | float):
            raise UserError(f"recipe {path}, section {name}: {flag} is {value}, expected a single value")
    return {flag: str(value) for flag, value in section.items()}


def resolved(
    recipe: dict[str, Any], name: str, instances: int, task: str | None, path: Path
) -> dict[str, Any]:
    """A recipe's section with what it says of this N and task in the place of what it says in general.

    Raises:
        UserError: no such section, or one that is no mapping.
    """
    if name not in recipe:
        raise UserError(f"recipe {path} has no section '{name}', only: {', '.join(map(str, recipe))}")
    section = _mapping(recipe, name, path)
    overrides = {
        key: _mapping(section, key, path)
        for key in section
        if re.fullmatch(r"num_instances_\d+|small_tasks", str(key))
    }
    section = {flag: value for flag, value in section.items() if flag not in overrides}
    section |= overrides.get(f"num_instances_{instances}", {})
    if task and get_task_name(task) in SMALL_TASKS:
        section |= overrides.get("small_tasks", {})
    return section


def is_pruned(model_path: str | None) -> bool:
    """Has a checkpoint folder or a model on the hub lost units; not one that doesn't say (or can't be reached)."""
    return _said_by(model_path).get("kept_heads") is not None


def _may_be_pruned(first: Any) -> bool:
    """Is the run's start a pruned model; of one that can't be read (yet) its folder says so."""
    fields = _local_config(first.model_name_or_path)
    if fields is None:
        return PRUNED in Path(first.model_name_or_path or "").parts
    return fields.get("kept_heads") is not None


def _local_config(model_path: str | None) -> dict[str, Any] | None:
    """The configuration of a folder; ``None`` for models on the hub and whatever loading will complain about."""
    try:
        fields = json.loads((Path(model_path or "") / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None


def instances_of(model_path: str | None) -> int | None:
    """N of a checkpoint folder or of a model on the hub, ``None`` where it doesn't say (or can't be reached)."""
    try:
        return int(_said_by(model_path)["num_instances"])
    except (ValueError, KeyError, TypeError):
        return None


def _said_by(model_path: str | None) -> dict[str, Any]:
    """The configuration of a folder or of a model on the hub, empty where there is none to be had."""
    fields = _local_config(model_path)
    if fields is None and model_path is not None and not Path(model_path).exists():
        try:
            fields = read_config(model_path)
        except UserError:
            return {}
    return fields or {}


def _mapping(parent: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The entry ``name`` of a recipe's mapping, empty where there is none."""
    value = parent.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"recipe {path}: expected a mapping of flags to values under '{name}', found {value}")
    return dict(value)


def get_task_name(name: str) -> str:
    """The canonical spelling of a task, or the name itself for the user's own data."""
    try:
        return get_task(name).name
    except UserError:
        return name
