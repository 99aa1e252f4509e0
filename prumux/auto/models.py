"""Accuracy and throughput at an unmeasured (N, sparsity): a piecewise bilinear surface, and a latency model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.optimize import nnls

from prumux.auto.points import Point
from prumux.errors import UserError

Key = tuple[int, float]


class OutOfRange(UserError):
    """A point outside what was measured."""


class Surface:
    """Piecewise bilinear in (N, s), exact at the measured points (paper section 4.1).

    Along the sparsities that each N was measured at first, then along N: on a full grid that is the bilinear function
    ``a0 + a1 N + a2 s + a3 N s`` of each cell; rows of N may also differ in their sparsities.
    """

    def __init__(self, values: Mapping[Key, float]) -> None:
        """Raises ``UserError`` where all values have one N or one sparsity: there is nothing to interpolate between."""
        if len({n for n, _ in values}) < 2 or len({s for _, s in values}) < 2:
            raise UserError(
                "too few results to fit: two or more values of num_instances and of sparsity are needed, there are "
                f"N = {_listed(n for n, _ in values)} and sparsity = {_listed(s for _, s in values)}"
            )
        self.rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for n in sorted({n for n, _ in values}):
            row = sorted((s, value) for (m, s), value in values.items() if m == n)
            self.rows[n] = np.array([s for s, _ in row]), np.array([value for _, value in row])

    def __call__(self, num_instances: int, sparsity: float, *, extrapolate: bool = False) -> float:
        """The value at one point.

        Raises:
            OutOfRange: it lies outside the measured points and ``extrapolate`` is not set, or there are too few to go
                beyond them. With it, a measured N goes on along its own last two sparsities, else two N go on in a
                straight line.
        """
        own = self._row(num_instances, sparsity, extrapolate)
        if own is not None:
            return own
        below = [n for n in self.rows if n < num_instances]
        above = [n for n in self.rows if n > num_instances]
        if num_instances not in self.rows and below and above:  # a cell between two measured N
            ends = {n: self._row(n, sparsity, extrapolate) for n in (below[-1], above[0])}
            known = {n: value for n, value in ends.items() if value is not None}
            if len(known) == 2:
                return _along(np.array(list(known)), np.array(list(known.values())), num_instances)
        if not extrapolate:
            raise OutOfRange(
                f"N={num_instances}, sparsity={sparsity:g} lies outside the measured points: give candidates inside, "
                "or --extrapolate"
            )
        rows = {n: self._row(n, sparsity, True) for n in self.rows if n != num_instances}
        known = {n: value for n, value in rows.items() if value is not None}
        if len(known) < 2:
            raise OutOfRange(
                f"too few results to extrapolate to N={num_instances}, sparsity={sparsity:g}: two values of N at that "
                "sparsity are needed, or two sparsities at that N"
            )
        return _along(np.array(list(known)), np.array(list(known.values())), num_instances)

    def _row(self, num_instances: int, sparsity: float, extrapolate: bool) -> float | None:
        """The value on the row of a measured N, ``None`` where there is none."""
        if num_instances not in self.rows:
            return None
        s, values = self.rows[num_instances]
        if s[0] <= sparsity <= s[-1] or (extrapolate and len(s) > 1):
            return _along(s, values, sparsity)
        return None


def _along(x: np.ndarray, y: np.ndarray, at: float) -> float:
    """Piecewise linear through (x, y), straight on beyond the ends; a constant through one point."""
    return float(make_interp_spline(x, y, k=1)(at)) if len(x) > 1 else float(y[0])


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(values)))


class LatencyModel:
    """Throughput from counts of operations: ``time of a group = a + b W + c N`` with no coefficient below 0.

    ``W`` is the work of a group of N: the operations that the kept structures were counted to need, where all points
    say them, else ``1 - s``, to which the encoder's are proportional. ``c N`` is what every instance pays for itself,
    ``a`` what is constant. Fitted to the measured points by least squares of the relative error; it predicts any
    (N, s), at the price of not passing through the points.
    """

    def __init__(self, points: Mapping[Key, Point]) -> None:
        counted = {key: point.operations for key, point in points.items() if point.operations is not None}
        self._work: Surface | None = None
        if len(counted) == len(points):
            largest = max(n * operations for (n, _), operations in counted.items())
            self._work = Surface({(n, s): n * value / largest for (n, s), value in counted.items()})
        features = np.array([self._features(*key) for key in points])
        times = np.array([point.num_instances / point.throughput for point in points.values()])
        self.coefficients, _ = nnls(features / times[:, None], np.ones(len(times)))

    def _features(self, num_instances: int, sparsity: float) -> list[float]:
        work = 1 - sparsity if self._work is None else self._work(num_instances, sparsity, extrapolate=True)
        return [1.0, work, num_instances]

    def __call__(self, num_instances: int, sparsity: float, *, extrapolate: bool = True) -> float:
        """Improvement over the dense model; it needs no ``extrapolate`` to leave the measured points."""
        time = float(self.coefficients @ self._features(num_instances, sparsity))
        if time <= 0:
            raise OutOfRange(
                "the latency model predicts no time at all: too few or contradictory measurements"
            )
        return num_instances / time


class GroupTime:
    """Throughput from the time of one group of N, in which N and the encoder's size enter linearly.

    The time per group ``N / throughput`` is interpolated between the measured points, so a measured point gives its own
    throughput (paper section 4.2) and one between them what its share of the work costs. Beyond them the latency model
    speaks.
    """

    def __init__(self, points: Mapping[Key, Point]) -> None:
        self._points = points
        self._time = Surface({key: point.num_instances / point.throughput for key, point in points.items()})

    def __call__(self, num_instances: int, sparsity: float, *, extrapolate: bool = False) -> float:
        """Improvement over the dense model."""
        try:
            return num_instances / self._time(num_instances, sparsity)
        except OutOfRange:
            if not extrapolate:
                raise
            return LatencyModel(self._points)(num_instances, sparsity)


THROUGHPUT_MODELS: dict[str, type[GroupTime] | type[LatencyModel]] = {
    "measured": GroupTime,
    "latency": LatencyModel,
}
