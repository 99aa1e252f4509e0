"""GLUE's metrics by name, computed from logits, and those of tagged words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from prumux.errors import UserError


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(predictions == labels))


def _f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1 where there are two classes (MRPC, QQP), macro-averaged over classes otherwise."""
    from sklearn.metrics import f1_score

    is_binary = max(predictions.max(), labels.max()) <= 1
    return float(f1_score(labels, predictions, average="binary" if is_binary else "macro", zero_division=0.0))


def _matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def _correlation(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    def correlate(predictions: np.ndarray, labels: np.ndarray) -> float:
        from scipy import stats

        if len(labels) < 2 or np.ptp(predictions) == 0 or np.ptp(labels) == 0:
            return 0.0  # a constant carries no information; scipy would warn and return nan
        return float(getattr(stats, name)(predictions, labels).statistic)

    return correlate


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _correlation("pearsonr"),
    "spearmanr": _correlation("spearmanr"),
}
SCORE_METRICS = frozenset(
    {"pearson", "spearmanr"}
)  # of the first logit itself, not of the largest one's class


def compute_metrics(names: Sequence[str], logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics ``names``, as fractions (0.91, not 91).

    Args:
        names: keys of :data:`METRICS`.
        logits: [rows, C]; for pearson and spearmanr the predicted scores, [rows, 1].
        labels: [rows] classes or scores, without filled rows.

    Raises:
        UserError: an unknown metric.
        ValueError: no rows, or other numbers of rows in logits and labels.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise UserError(f"unknown metric '{unknown[0]}': choose from {', '.join(METRICS)}")
    logits, labels = np.asarray(logits), np.asarray(labels)
    if len(logits) != len(labels) or not len(labels):
        raise ValueError(f"{len(logits)} rows of logits for {len(labels)} labels: give as many, at least 1")
    logits = logits.reshape(len(labels), -1)
    predictions = {name: logits[:, 0] if name in SCORE_METRICS else logits.argmax(axis=1) for name in names}
    return {name: METRICS[name](predictions[name], labels) for name in names}


def tag_metrics(predictions: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> dict[str, float]:
    """CoNLL's precision, recall and F1 of whole entities, and the share of words with the right tag, as fractions.

    Args:
        predictions, labels: tag names (``B-PER``, ``I-PER``, ``O``) per sentence and word.
    """
    from seqeval.metrics import f1_score, precision_score, recall_score

    predictions, labels = [list(row) for row in predictions], [list(row) for row in labels]
    pairs = [
        pair
        for ours, theirs in zip(predictions, labels, strict=True)
        for pair in zip(ours, theirs, strict=True)
    ]
    if not pairs:
        raise UserError("the development set has no tagged words: give sentences with at least one word")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no entity at all is a score of 0, and tags of any name are tags
        scores = {
            name: float(score(labels, predictions))
            for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score))
        }
    return scores | {"token_accuracy": sum(ours == theirs for ours, theirs in pairs) / len(pairs)}
