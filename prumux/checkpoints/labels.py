"""Names of the classes: those that a checkpoint gives, else those of the task that it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prumux.checkpoints.source import Source
from prumux.data.tasks import TASKS
from prumux.errors import UserError

MNLI_ORDER = ("contradiction", "entailment", "neutral")  # of the models that the authors publish


def class_labels(source: Source, task: str | None, classes: int) -> list[str]:
    """Names of the classes: the checkpoint's own, else those of the task it was trained on, in that order."""
    own = _own_labels(source, classes)
    known = {
        name.lower().replace("-", ""): entry for name, entry in TASKS.items() if entry.folder is not None
    }
    if task is not None and not _tasks_in(task, known):
        raise UserError(f"unknown task '{task}': choose one of: {', '.join(e.name for e in known.values())}")
    trained_on = source.config.get("finetuning_task")
    path = f"{source.folder.resolve().as_posix()}/{source.name}".split("/")
    said = [task] if task else [trained_on] if isinstance(trained_on, str) else reversed(path)
    found = next((tasks for text in said if (tasks := _tasks_in(text, known))), set())
    entry = known[found.pop()] if len(found) == 1 else None
    if own is not None:
        expected = entry.label_names if task and entry else None
        if expected is not None and {name.lower() for name in own} != {name.lower() for name in expected}:
            raise UserError(
                f"{source.name} has the classes {', '.join(own)}, which are not those of {task}: leave --task out"
            )
        return own
    if entry is not None:
        fits = classes == (1 if entry.label_names is None else len(entry.label_names))
        if task is not None and not fits:
            raise UserError(
                f"{source.name} has {classes} classes, {entry.name} another number: name its own task"
            )
        if fits and entry.name == "MNLI":
            if _is_published(source):
                return list(MNLI_ORDER)
            if task is not None:
                raise UserError(
                    f"{source.name} does not say which of its classes is which, and MNLI's are in another order "
                    "elsewhere: write their names into id2label of its config.json, in the order it was trained with"
                )
        elif fits and entry.label_names is not None:
            return list(entry.label_names)
    return ["score"] if classes == 1 else [f"LABEL_{i}" for i in range(classes)]


def _is_published(source: Source) -> bool:
    """Is it one of those that the authors publish: multiplexed, with masks, or by its name."""
    named = re.search("cofi|princeton-nlp", f"{source.folder.resolve().as_posix()}/{source.name}".lower())
    return "num_instances" in source.config or source.masks is not None or named is not None


def _own_labels(source: Source, classes: int) -> list[str] | None:
    """The names that config.json gives the classes; ``None`` where it only numbers them."""
    fields = source.config
    try:
        by_number = {int(number): str(name) for number, name in (fields.get("id2label") or {}).items()}
        by_name = {int(number): str(name) for name, number in (fields.get("label2id") or {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{source.name}: id2label or label2id of config.json is no table of numbers and names"
        ) from error
    for table in (by_number, by_name):
        names = [table.get(i, "") for i in range(classes)]
        if len(table) == classes == len(set(names)) and not all(
            re.fullmatch(r"(label_)?\d*", n.lower()) for n in names
        ):
            return names
    return None


def _tasks_in(text: str, known: Mapping[str, Any]) -> set[str]:
    """The tasks that a name speaks of, in its parts between _ and -; sst-2 and sts-b are one part."""
    text = text.lower().replace("sst-2", "sst2").replace("sts-b", "stsb")
    return {part for part in re.split(r"[_/-]", text) if part in known}
