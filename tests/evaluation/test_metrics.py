"""Metrics against hand-computed values; degenerate predictions give 0, not nan and not a warning."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prumux.data.tasks import TASKS
from prumux.errors import UserError
from prumux.evaluation.metrics import compute_metrics, tag_metrics


def _logits(predictions: list[int], classes: int = 2) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predictions]


def test_binary_counts() -> None:
    # true positives 2, false positives 1, false negatives 1, true negatives 2
    labels, predictions = np.array([1, 1, 1, 0, 0, 0]), [1, 1, 0, 1, 0, 0]
    result = compute_metrics(["accuracy", "f1", "matthews_correlation"], _logits(predictions), labels)
    assert result == pytest.approx({"accuracy": 4 / 6, "f1": 2 / 3, "matthews_correlation": 3 / 9})
    assert all(type(value) is float for value in result.values())


def test_f1_is_of_class_one() -> None:
    labels = np.array([0, 0, 0, 1])
    assert compute_metrics(["f1"], _logits([0, 0, 0, 0]), labels) == {"f1": 0.0}
    assert compute_metrics(["f1"], _logits([1, 1, 1, 1]), labels) == {"f1": pytest.approx(0.4)}


def test_three_classes() -> None:
    result = compute_metrics(["accuracy", "f1"], _logits([0, 1, 2, 2], 3), np.array([0, 1, 2, 0]))
    assert result == pytest.approx({"accuracy": 0.75, "f1": (2 / 3 + 1 + 2 / 3) / 3})


def test_correlations() -> None:
    scores, labels = np.array([[1.0], [2.0], [4.0]], dtype=np.float32), np.array([1.0, 3.0, 2.0])
    result = compute_metrics(["pearson", "spearmanr"], scores, labels)
    assert result == pytest.approx({"pearson": np.corrcoef([1, 2, 4], [1, 3, 2])[0, 1], "spearmanr": 0.5})
    assert compute_metrics(["pearson"], scores[:, 0], labels) == {"pearson": pytest.approx(result["pearson"])}


@pytest.mark.parametrize("name", ["pearson", "spearmanr", "matthews_correlation"])
def test_constant_predictions_are_worth_nothing(name: str) -> None:
    assert compute_metrics([name], np.ones((4, 1)), np.array([0, 1, 1, 0])) == {name: 0.0}


@pytest.mark.parametrize("name", ["pearson", "spearmanr"])
def test_almost_constant_predictions_do_not_warn(name: str) -> None:
    scores = np.array([[1.0], [1.0], [np.nextafter(np.float32(1), np.float32(2))]], dtype=np.float32)
    assert math.isfinite(compute_metrics([name], scores, np.array([0.1, 0.2, 0.3]))[name])


@pytest.mark.parametrize(
    "task", [task for task in TASKS.values() if not task.tokens], ids=lambda task: task.name
)
def test_perfect_predictions_are_one(task) -> None:
    if task.is_regression:
        labels = np.linspace(0, 5, 7)
        logits = labels[:, None]
    else:
        labels = np.arange(12) % len(task.label_names)
        logits = _logits(labels.tolist(), len(task.label_names))
    assert compute_metrics(task.metrics, logits, labels) == pytest.approx(dict.fromkeys(task.metrics, 1.0))


def test_bad_requests() -> None:
    with pytest.raises(UserError, match="unknown metric 'bleu': choose from accuracy, f1"):
        compute_metrics(["bleu"], _logits([0]), np.array([0]))
    with pytest.raises(ValueError, match="2 rows of logits for 1 labels"):
        compute_metrics(["accuracy"], _logits([0, 1]), np.array([0]))
    with pytest.raises(ValueError, match="0 rows of logits for 0 labels"):
        compute_metrics(["accuracy"], np.zeros((0, 2)), np.zeros(0))


def test_entities_count_as_a_whole():
    labels = [["B-PER", "I-PER", "O"], ["O", "B-LOC"]]
    assert tag_metrics(labels, labels) == {"f1": 1, "precision": 1, "recall": 1, "token_accuracy": 1}
    found = tag_metrics([["B-PER", "O", "O"], ["O", "B-LOC"]], labels)
    assert (found["precision"], found["recall"], found["token_accuracy"]) == (0.5, 0.5, 0.8)
    nothing = tag_metrics([["O"] * 3, ["O"] * 2], labels)
    assert (nothing["f1"], nothing["token_accuracy"]) == (0, 0.4)
    with pytest.raises(UserError, match="no tagged words"):
        tag_metrics([], [])
