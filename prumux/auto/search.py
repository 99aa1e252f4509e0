"""`AutoPruMUX`: predicts the best (N, sparsity) for an accuracy budget, says how good it is, and what to train next."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scipy.stats import norm

from prumux.auto.models import THROUGHPUT_MODELS, Key, OutOfRange, Surface
from prumux.auto.points import Point, check_points, choose_task, points_of, read_points
from prumux.errors import UserError
from prumux.reports.methods import method_name

POINTS = 100  # budgets are in points, accuracies are fractions
SLACK = 1e-9  # of a comparison with a tolerance: rounding must not exclude a point that meets it
DIGITS = 9  # of a threshold, rounded down: rounding must not exclude a point that lies on it
ACCURACY_TOLERANCE = 0.015  # M_A: a prediction within 1.5 points is right (paper section 4.4)
THROUGHPUT_TOLERANCE = 0.20  # M_T
BUDGETS = tuple(0.5 * i for i in range(21))  # 0, 0.5, ... 10 points (paper table 3)
LEAST_ERROR = 0.005  # standard error of a predicted accuracy, at least
WORTH_IT = 0.01  # a run is worth training for an expected gain of this share of the best throughput


@dataclass(frozen=True)
class Prediction:
    """One candidate.

    Attributes:
        accuracy, throughput: measured where ``measured``, else predicted. accuracy_error: of a measured accuracy its
            spread over groupings or seeds, of a predicted one the leave-one-out error. throughput_error: likewise, 0
            where it was measured. method: as in ``method_name``.
    """

    num_instances: int
    sparsity: float
    accuracy: float
    throughput: float
    accuracy_error: float
    throughput_error: float
    measured: bool
    method: str


@dataclass(frozen=True)
class LeftOut:
    """A measured point and what the models say about it when they are fitted without it."""

    num_instances: int
    sparsity: float
    accuracy: float
    predicted_accuracy: float
    throughput: float
    predicted_throughput: float


class AutoPruMUX:
    """The models of one task (paper section 4): accuracy from its own points, throughput from one task's."""

    def __init__(
        self,
        points: Iterable[Point],
        task: str,
        *,
        throughput_task: str | None = None,
        throughput_model: str = "measured",
    ) -> None:
        """Fit.

        Args:
            points: of one or more tasks, each with its dense row (1, 0).
            throughput_task: whose PruMUX throughputs stand for all tasks (paper section 4.3; those of the dense model,
                CoFi and DataMUX are the task's own where they were measured); default ``task`` itself.
            throughput_model: ``measured`` (exact at the measured points) or ``latency`` (from counts of operations).

        Raises:
            UserError: no such task or model, too few points, or values that a results file would be refused with.
        """
        points = list(points)
        if throughput_model not in THROUGHPUT_MODELS:
            raise UserError(
                f"unknown throughput model '{throughput_model}': choose one of {', '.join(THROUGHPUT_MODELS)}"
            )
        self.task = choose_task(points, task)
        self.throughput_task = choose_task(points, throughput_task or task)
        self._kind = THROUGHPUT_MODELS[throughput_model]
        self.points = points_of(points, task)
        self._timed = points_of(points, self.throughput_task)
        check_points([point for point in points if point.task in (self.task, self.throughput_task)])
        try:
            self.accuracy_model = self._accuracies(self.points)
            self.throughput_model = self._kind(self._timed)
        except UserError as error:
            raise UserError(f"{task}: {error}") from error
        self.baseline = self.points[1, 0.0]

    @classmethod
    def fit(
        cls,
        results: str | Path | Sequence[str | Path],
        task: str | None = None,
        *,
        throughput_task: str | None = None,
        throughput_model: str = "measured",
    ) -> AutoPruMUX:
        """From results files; ``task`` may be left out where they hold one only. For the rest see :meth:`__init__`."""
        asked = None if task is None else [name for name in (task, throughput_task) if name is not None]
        points = read_points(results, asked)
        return cls(
            points,
            choose_task(points, task),
            throughput_task=throughput_task,
            throughput_model=throughput_model,
        )

    @staticmethod
    def _accuracies(points: dict[Key, Point]) -> Surface:
        return Surface({key: point.accuracy for key, point in points.items()})

    # ---- prediction

    def accuracy(self, num_instances: int, sparsity: float, *, extrapolate: bool = False) -> float:
        """Accuracy, a fraction."""
        return min(1.0, self.accuracy_model(num_instances, sparsity, extrapolate=extrapolate))

    def throughput(self, num_instances: int, sparsity: float, *, extrapolate: bool = False) -> float:
        """Improvement over the dense model."""
        return self.throughput_model(num_instances, sparsity, extrapolate=extrapolate)

    def candidates(
        self, num_instances: Sequence[int] | None = None, sparsity: Sequence[float] | None = None
    ) -> list[Key]:
        """All pairs of the given values; by default the measured values and the midpoints between them.

        Raises:
            UserError: an N below 1 or with a fraction, a sparsity outside [0, 1), an empty list.
        """
        if num_instances is None:
            num_instances = _with_midpoints([n for n, _ in self.points], whole=True)
        if sparsity is None:
            sparsity = _with_midpoints([s for _, s in self.points], whole=False)
        ns, ss = sorted(set(num_instances)), sorted({round(float(s), 6) for s in sparsity})
        if not ns or not ss or not all(n >= 1 and n == int(n) for n in ns) or not all(0 <= s < 1 for s in ss):
            raise UserError(
                f"candidates N = {ns}, sparsity = {ss}: expected whole numbers from 1 on and shares from 0 to below 1"
            )
        return [(int(n), s) for n in ns for s in ss]

    def threshold(self, loss_budget: float) -> float:
        """The least accuracy within a budget in points, rounded down to nine digits.

        Raises:
            UserError: a negative budget, or one that is no number.
        """
        if not 0 <= loss_budget <= POINTS:
            raise UserError(f"the loss budget is {loss_budget:g}, expected points of accuracy from 0 to 100")
        least = self.baseline.accuracy - loss_budget / POINTS
        scale = 10**DIGITS
        return min(least, math.floor(round(least * scale, 6)) / scale)

    def predict(
        self,
        loss_budget: float,
        top: int = 3,
        *,
        num_instances: Sequence[int] | None = None,
        sparsity: Sequence[float] | None = None,
        extrapolate: bool = False,
    ) -> list[Prediction]:
        """The ``top`` candidates of highest throughput whose accuracy meets the threshold (paper eq. 1), best first.

        Candidates given by the user must lie inside the measured points unless ``extrapolate``; of the default ones
        those that don't are left out.

        Raises:
            UserError: no candidate meets the threshold, or one lies outside.
        """
        threshold = self.threshold(loss_budget)
        given = num_instances is not None and sparsity is not None
        everything = []
        for key in self.candidates(num_instances, sparsity):
            try:
                everything.append(self._prediction(key, extrapolate))
            except OutOfRange:
                if given:
                    raise
        reached = {(p.num_instances, p.sparsity) for p in everything}
        for name, place, values in (("N", 0, num_instances), ("sparsity", 1, sparsity)):
            lost = [
                v
                for v in (() if values is None else values)
                if not any(math.isclose(v, key[place], abs_tol=1e-6) for key in reached)
            ]
            if lost:
                raise OutOfRange(
                    f"every candidate with {name} = {lost[0]:g} lies outside the measured points: leave it out, or "
                    "--extrapolate"
                )
        within = best_within(everything, threshold, top)
        if not within:
            best = max((candidate.accuracy for candidate in everything), default=math.nan)
            raise UserError(
                f"no candidate reaches accuracy {threshold:.4f} (the best: {best:.4f}): raise --loss_budget or add "
                "candidates such as N=1"
            )
        return within

    def _prediction(self, key: Key, extrapolate: bool) -> Prediction:
        point = self.points.get(key)
        try:
            own = point is not None and (self.throughput_task == self.task or point.method != "PruMUX")
            throughput = point.throughput if own and point else self.throughput(*key, extrapolate=extrapolate)
        except OutOfRange:
            if point is None:
                raise
            throughput, own = point.throughput, True  # the other task doesn't know this one
        if point is None:
            accuracy = _accuracy(self.accuracy(*key, extrapolate=extrapolate))
            error = self.accuracy_error()
        else:
            accuracy, error = point.accuracy, point.accuracy_std
        off = 0.0 if own else self.throughput_error() * throughput
        return Prediction(*key, accuracy, throughput, error, off, point is not None, method_name(*key))

    # ---- how good it is

    def left_out(self) -> list[LeftOut]:
        """Each PruMUX point (N > 1, s > 0), predicted by models that are fitted to all other points.

        A point at the edge of the grid is extrapolated to; one that the others say nothing about is left out of the
        result. Where throughput is another task's, its model stays.
        """
        return list(self._left_out)

    @cached_property
    def _left_out(self) -> list[LeftOut]:
        results = []
        for key, point in self.points.items():
            if point.method != "PruMUX":
                continue
            rest = {other: value for other, value in self.points.items() if other != key}
            try:
                accuracy = min(1.0, self._accuracies(rest)(*key, extrapolate=True))
                model = self._kind(rest) if self.throughput_task == self.task else self.throughput_model
                throughput = model(*key, extrapolate=True)
            except UserError:  # too few points are left
                continue
            results.append(LeftOut(*key, point.accuracy, accuracy, point.throughput, throughput))
        return results

    def accuracy_error(self) -> float:
        """How far a predicted accuracy may be off: the root mean square of the leave-one-out errors.

        At least half a point; one and a half where too few points allow to leave one out.
        """
        errors = [r.predicted_accuracy - r.accuracy for r in self._left_out]
        return max(_root_mean_square(errors, ACCURACY_TOLERANCE), LEAST_ERROR)

    def throughput_error(self) -> float:
        """How far a predicted throughput may be off, a share of it: the root mean square of the leave-one-out errors.

        A fifth where too few points allow to leave one out.
        """
        errors = [r.predicted_throughput / r.throughput - 1 for r in self._left_out]
        return _root_mean_square(errors, THROUGHPUT_TOLERANCE)

    def quality(self) -> dict[str, float]:
        """``M_A`` and ``M_T`` (paper table 1): shares of leave-one-out predictions within 1.5 points and within 20 %.

        Raises:
            UserError: no PruMUX point.
        """
        left = self.left_out()
        if not left:
            raise UserError(
                f"{self.task} has no PruMUX point (N > 1 and sparsity > 0) that could be left out and predicted "
                "from the others: train more of the grid"
            )
        right_a = [abs(r.predicted_accuracy - r.accuracy) <= ACCURACY_TOLERANCE + SLACK for r in left]
        right_t = [
            abs(r.predicted_throughput - r.throughput) <= (THROUGHPUT_TOLERANCE + SLACK) * r.throughput
            for r in left
        ]
        return {"points": len(left), "M_A": sum(right_a) / len(left), "M_T": sum(right_t) / len(left)}

    def held_out(self, train_sparsity: Sequence[float] | None) -> list[Prediction]:
        """The measured points, with the accuracies of a model that was not fitted to the PruMUX points among them.

        ``train_sparsity``: PruMUX points at these sparsities are fitted to and keep their accuracy (the paper's
        protocol); ``None`` predicts each of them by leaving it out.
        """
        if train_sparsity is None:
            accuracies = {
                (r.num_instances, r.sparsity): _accuracy(r.predicted_accuracy) for r in self.left_out()
            }
        else:
            pruned = sorted({point.sparsity for point in self.points.values() if point.method == "PruMUX"})
            unknown = [s for s in train_sparsity if not any(math.isclose(s, known) for known in pruned)]
            if unknown:
                raise UserError(
                    f"--train_sparsity {unknown[0]:g} was not measured with N > 1: choose from {pruned}"
                )
            kept = {
                key: point
                for key, point in self.points.items()
                if point.method != "PruMUX" or any(math.isclose(point.sparsity, s) for s in train_sparsity)
            }
            model = self._accuracies(kept)
            accuracies = {
                key: _accuracy(model(*key, extrapolate=True)) for key in self.points if key not in kept
            }
        return [
            Prediction(
                *key,
                accuracies.get(key, point.accuracy),
                self._prediction(key, extrapolate=True).throughput,
                0.0,
                0.0,
                key not in accuracies,
                point.method,
            )
            for key, point in self.points.items()
        ]

    def best_measured(self, loss_budget: float) -> Point:
        """The measured point of highest throughput within the budget; the dense model always is."""
        threshold = self.threshold(loss_budget)
        within = [point for point in self.points.values() if point.accuracy >= threshold]
        return max(within, key=lambda point: (point.throughput, point.accuracy))

    def hit_rate(
        self, top: int = 3, budgets: Sequence[float] = BUDGETS, train_sparsity: Sequence[float] | None = None
    ) -> float:
        """Share of the budgets whose best measured point is among the ``top`` predictions (paper table 3)."""
        predicted = self.held_out(train_sparsity)
        hits = 0
        for budget in budgets:
            threshold = self.threshold(budget)
            ranked = best_within(predicted, threshold, top)
            hits += self.best_measured(budget).key in {(p.num_instances, p.sparsity) for p in ranked}
        return hits / len(budgets)

    # ---- what to train next

    def next_runs(
        self, loss_budget: float, top: int = 3, candidates: Sequence[Key] | None = None
    ) -> list[dict[str, Any]]:
        """Unmeasured candidates by the throughput that training them is expected to gain, best first.

        The gain is the predicted throughput above the best measured within the budget, times the probability that the
        accuracy meets the threshold: normal around the prediction, with the leave-one-out error.
        """
        if top < 1:
            raise UserError(f"--top is {top}: ask for at least 1")
        threshold, best = self.threshold(loss_budget), self.best_measured(loss_budget).throughput
        error = self.accuracy_error()
        found = []
        for key in candidates if candidates is not None else self.candidates():
            if key in self.points:
                continue
            try:
                prediction = self._prediction(key, extrapolate=candidates is not None)
            except OutOfRange:
                continue
            chance = float(norm.cdf((prediction.accuracy - threshold) / error))
            gain = chance * max(0.0, prediction.throughput - best)
            found.append(asdict(prediction) | {"probability": chance, "expected_gain": gain})
        found.sort(key=lambda row: (-row["expected_gain"], -row["probability"]))
        return found[:top]


def best_within(predictions: Iterable[Prediction], threshold: float, top: int) -> list[Prediction]:
    """The ``top`` of highest throughput whose accuracy meets the threshold, best first.

    Raises:
        UserError: ``top`` below 1.
    """
    if top < 1:
        raise UserError(f"--top is {top}: ask for at least 1")
    within = [prediction for prediction in predictions if prediction.accuracy >= threshold]
    return sorted(within, key=lambda p: (-p.throughput, -p.accuracy, p.num_instances, p.sparsity))[:top]


def _root_mean_square(errors: Sequence[float], default: float) -> float:
    return math.sqrt(sum(error * error for error in errors) / len(errors)) if errors else default


def _accuracy(value: float) -> float:
    """A predicted accuracy: at most 1, and without the noise of floats, which could miss a threshold it meets."""
    return round(min(1.0, value), DIGITS + 3)


def _with_midpoints(values: Iterable[float], *, whole: bool) -> list[Any]:
    """The distinct values and the midpoints of neighbours, of whole numbers rounded down."""
    values = sorted(set(values))
    middles = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    return sorted({*values, *(math.floor(m) if whole else round(m, 6) for m in middles)})
