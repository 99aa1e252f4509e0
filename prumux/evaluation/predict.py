"""Logits and metrics of a model over a dataset: repeatable to the bit, filled rows never counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from prumux.data.grouping import IGNORE
from prumux.errors import UserError

OUTSIDE = "O"  # the tag of a word in no entity

if TYPE_CHECKING:
    from prumux.data.grouping import GroupingCollator
    from prumux.data.loading import TaskData


@contextlib.contextmanager
def evaluation_mode(*models: Callable[..., Any]) -> Iterator[None]:
    """Put models in evaluation mode without gradients; each submodule gets its own mode back afterwards."""
    modules = [module for model in models if isinstance(model, torch.nn.Module) for module in model.modules()]
    training = [module.training for module in modules]
    try:
        for model in models:
            if isinstance(model, torch.nn.Module):
                model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


def model_device(model: Callable[..., Any]) -> torch.device:
    """Where a model's first parameter lives; the CPU for a callable without parameters."""
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else iter(())
    first = next(parameters, None)
    return torch.device("cpu") if first is None else first.device


def predict_logits(
    model: Callable[..., Any],
    dataset: Sequence[dict[str, Any]],
    collator: GroupingCollator,
    batch_size: int,
    order: np.ndarray | None = None,
    progress: bool = True,
    ensemble: int = 1,
) -> np.ndarray:
    """The logits of every row, in the order of the input; for tagged words, of every labelled token.

    Args:
        model: a module, an engine, or any callable that takes the collator's tensors and returns logits
            [rows, C] (or [rows, L, C] for tokens), or an output with ``.logits``.
        dataset: tokenized rows (``dataset[i]`` is a feature dictionary).
        collator: groups and pads a list of rows; filled rows come last.
        batch_size: rows in one forward pass, rounded up to whole groups of N, so that the neighbours in a
            full group don't depend on it.
        order: the order in which rows are taken (a permutation of the row numbers); it decides the
            neighbours.
        progress: show a progress bar.
        ensemble: slots of a group that hold the same row; its logits are their mean (MUX-PLM's ensembling).

    Returns:
        float32 array [rows, C]; row i belongs to ``dataset[i]`` whatever the order. For tokens [labelled tokens, C],
        those of ``dataset[0]`` first.
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} is too small: give at least 1")
    check_ensemble(ensemble, collator.num_instances)
    batch_size = -(-batch_size // collator.num_instances) * collator.num_instances
    order = np.arange(len(dataset)) if order is None else np.asarray(order)
    assert np.array_equal(np.sort(order), np.arange(len(dataset))), "order must be a permutation of the rows"
    device = model_device(model)
    slots = _slots(order, collator.num_instances, ensemble)
    logits: np.ndarray | None = None
    places = [np.array([i]) for i in range(len(order))]  # of each row in the result
    starts = range(0, len(slots), batch_size)
    with evaluation_mode(model):
        for start in tqdm(
            starts, desc="evaluate", unit="batch", disable=None if progress else True, leave=False
        ):
            rows = slots[start : start + batch_size]
            batch = collator([dataset[int(row)] for row in rows])
            tensors = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
            output = model(**tensors)
            found = output if isinstance(output, torch.Tensor) else output.logits
            real = found[: len(rows)].float().cpu()
            if real.dim() == 3:
                real = real[batch["labels"][: len(rows)] != IGNORE]  # (labelled tokens, C)
            if logits is None:
                if found.dim() == 3:
                    places = _places([np.not_equal(labels, IGNORE).sum() for labels in dataset["labels"]])  # type: ignore[call-overload]
                logits = np.zeros((sum(map(len, places)), real.shape[1]), dtype=np.float32)
            np.add.at(logits, np.concatenate([places[int(row)] for row in rows]), real.numpy())
    if logits is None:
        raise UserError("the development set is empty: give a file or task with at least one row")
    return logits / ensemble


def check_ensemble(ensemble: int, num_instances: int) -> None:
    """Raise a UserError unless ``ensemble`` copies of a row fill the slots of a group evenly."""
    if ensemble < 1 or num_instances % ensemble:
        choices = [k for k in range(1, num_instances + 1) if num_instances % k == 0]
        raise UserError(
            f"an ensemble of {ensemble} does not fill {num_instances} slots evenly: choose from "
            f"{', '.join(map(str, choices))}"
        )


def _slots(order: np.ndarray, num_instances: int, ensemble: int) -> np.ndarray:
    """The rows by slot: N / K consecutive rows of ``order`` share a group, K times over."""
    distinct = num_instances // ensemble
    groups = [order[start : start + distinct] for start in range(0, len(order), distinct)]
    return np.concatenate([np.tile(group, ensemble) for group in groups]) if groups else order


def _places(sizes: Sequence[int]) -> list[np.ndarray]:
    """Consecutive places, so many for each row."""
    ends = np.cumsum(sizes)
    return [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def evaluate(
    model: Callable[..., Any],
    data: TaskData,
    tokenizer: Any,
    batch_size: int,
    num_groupings: int = 1,
    seed: int = 0,
    pad_to_length: int | None = None,
    num_instances: int | None = None,
    progress: bool = True,
    ensemble: int = 1,
    average_groupings: int = 1,
    group_by_length: bool = False,
) -> dict[str, float]:
    """The task's metrics over the development set, averaged over K ways to group the rows.

    A row's prediction depends on the rows it is multiplexed with, so the spread over groupings belongs to the
    number.

    Args:
        model: as in :func:`predict_logits`.
        data: tokenized task; only ``data.validation`` is read.
        tokenizer: the model's tokenizer, for padding.
        batch_size: rows in one forward pass.
        num_groupings: K; the first grouping is the order of the file, the others are permutations fixed by
            ``seed``. With N = 1 rows have no neighbours and one grouping is enough.
        pad_to_length: tokens per row; None pads to the longest row of the batch.
        num_instances: N; the model's own ``config.num_instances`` unless given.
        ensemble: as in :func:`predict_logits`.
        average_groupings: A; a prediction is the mean of the logits in A groupings, K times over.
        group_by_length: rows of similar length are neighbours, as in the engine's ``predict`` for models that mask
            padding. Then groupings differ in the order of rows of equal length only.

    Returns:
        For each metric its mean (a fraction) and ``<metric>_std``, the population standard deviation.

    Raises:
        UserError: no development set, or fewer than one grouping, of either kind.
    """
    from prumux.data.grouping import GroupingCollator, groupings

    if num_groupings < 1 or average_groupings < 1:
        raise UserError(f"{min(num_groupings, average_groupings)} groupings asked for: give at least 1")
    if data.validation is None:
        raise UserError(f"{data.name} has no development set to evaluate on: give --validation_file")
    if num_instances is None:
        num_instances = model.config.num_instances  # type: ignore[attr-defined]
    collator = GroupingCollator(tokenizer, num_instances, pad_to_length=pad_to_length)
    label2id = getattr(getattr(model, "config", None), "label2id", None)
    if num_instances == 1:
        num_groupings = average_groupings = 1
    lengths = data.validation["length"][:] if group_by_length else None  # at once, not row by row
    orders = groupings(len(data.validation), num_groupings * average_groupings, seed, lengths)
    logits = [
        predict_logits(
            model, data.validation, collator, batch_size, order=order, progress=progress, ensemble=ensemble
        )
        for order in orders
    ]
    averaged = np.stack(logits).reshape(num_groupings, average_groupings, *logits[0].shape).mean(1)
    runs = [_score(data, label2id, mean) for mean in averaged]
    result: dict[str, float] = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        result[name] = float(np.mean(values))
        result[f"{name}_std"] = float(np.std(values))
    return result


def _score(data: TaskData, label2id: dict[str, int] | None, logits: np.ndarray) -> dict[str, float]:
    """The task's metrics of the logits of its development set."""
    from prumux.evaluation.metrics import compute_metrics, tag_metrics

    assert data.validation is not None
    if not data.tokens:
        labels = np.asarray(data.validation["labels"])
        return compute_metrics(data.metrics, *_in_task_order(data, label2id, logits, labels))
    rows = [[label for label in labels if label != IGNORE] for labels in data.validation["labels"]]
    flat = np.array([label for labels in rows for label in labels])
    # every tag of the model competes, also those that this data has none of
    numbers = label2id or {name: i for i, name in enumerate(data.label_names or [])}
    names = np.array([name for name, _ in sorted(numbers.items(), key=lambda item: item[1])])
    cuts = np.cumsum([len(labels) for labels in rows])[:-1]
    predictions, truth = (
        [list(part) for part in np.split(names[chosen], cuts)] for chosen in (logits.argmax(1), flat)
    )
    for ours, theirs, cut in zip(predictions, truth, data.validation["cut"], strict=True):
        ours += [OUTSIDE] * len(cut)  # words beyond the length: nothing was found there
        theirs += list(names[cut]) if cut else []
    found = tag_metrics(predictions, truth)
    return {name: found[name] for name in data.metrics}


def _in_task_order(
    data: TaskData, label2id: dict[str, int] | None, logits: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logits [rows, C] and labels [rows] renumbered to the task's order, which decides the class that F1 is about.

    The model's other classes, which this data has none of, come last: they compete, too.
    """
    from prumux.data.loading import class_numbers

    ids = class_numbers(data, label2id)
    if ids is None:
        return logits, labels
    others = sorted(set(range(logits.shape[1])) - set(ids.values()))
    columns = np.array([*ids.values(), *others])
    return logits[:, columns], (labels[:, None] == columns).argmax(axis=1)
