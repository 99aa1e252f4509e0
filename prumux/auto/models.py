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
            OutOfRange: it lies outside the measured points and ``extrapolate`` is not set; then the nearest two go on
                in a straight line.
        """
        inside = {
            n: _along(s, values, sparsity)
            for n, (s, values) in self.rows.items()
            if s[0] <= sparsity <= s[-1] and (len(s) > 1 or s[0] == sparsity)
        }
        if num_instances in inside:
            return inside[num_instances]
        if inside and min(inside) <= num_instances <= max(inside):
            return _along(np.array(list(inside)), np.array(list(inside.values())), num_instances)
        if not extrapolate:
            raise OutOfRange(
                f"N={num_instances}, sparsity={sparsity:g} lies outside the measured points: give candidates inside, "
                "or --extrapolate"
            )
        own = self.rows.get(num_instances)
        if own is not None and len(own[0]) > 1:
            return _along(*own, sparsity)
        rows = inside or {
            n: _along(s, v, sparsity) for n, (s, v) in self.rows.items() if len(s) > 1 and n != num_instances
        }
        if not rows:
            raise OutOfRange(f"too few results to extrapolate to N={num_instances}, sparsity={sparsity:g}")
        return _along(np.array(list(rows)), np.array(list(rows.values())), num_instances)


def _along(x: np.ndarray, y: np.ndarray, at: float) -> float:
    """Piecewise linear through (x, y), straight on beyond the ends; a constant through one point."""
    return float(make_interp_spline(x, y, k=1)(at)) if len(x) > 1 else float(y[0])


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(values)))


class GroupTime:
    """Throughput from the time of one group of N, in which N and the encoder's size enter linearly.

    The time per group ``N / throughput`` is interpolated between the measured points, so a measured point gives its own
    throughput (paper section 4.2) and one between them what its share of the work costs.
    """

    def __init__(self, points: Mapping[Key, Point]) -> None:
        self._time = Surface({key: point.num_instances / point.throughput for key, point in points.items()})
        self._latency = LatencyModel(points)

    def __call__(self, num_instances: int, sparsity: float, *, extrapolate: bool = False) -> float:
        """Improvement over the dense model."""
        time = self._time(num_instances, sparsity, extrapolate=extrapolate)
        if time <= 0:  # a straight line beyond the points may cross 0
            return self._latency(num_instances, sparsity)
        return num_instances / time


class LatencyModel:
    """Throughput from counts of operations: ``time of a group = a + b (1 - s) + c N`` with no coefficient below 0.

    ``b (1 - s)`` is the encoder, whose operations are proportional to the parameters kept; ``c N`` embedding and
    demultiplexer, which every instance pays; ``a`` what is constant. Fitted to the measured points by least squares of
    the relative error; it predicts any (N, s), at the price of not passing through the points.
    """

    def __init__(self, points: Mapping[Key, Point]) -> None:
        features = np.array([[1.0, 1 - s, n] for n, s in points])
        times = np.array([point.num_instances / point.throughput for point in points.values()])
        self.coefficients, _ = nnls(features / times[:, None], np.ones(len(times)))

    def __call__(self, num_instances: int, sparsity: float, *, extrapolate: bool = False) -> float:
        """Improvement over the dense model."""
        time = float(self.coefficients @ [1.0, 1 - sparsity, num_instances])
        if time <= 0:
            raise OutOfRange(
                "the latency model predicts no time at all: too few or contradictory measurements"
            )
        return num_instances / time


THROUGHPUT_MODELS: dict[str, type[GroupTime] | type[LatencyModel]] = {
    "measured": GroupTime,
    "latency": LatencyModel,
}
