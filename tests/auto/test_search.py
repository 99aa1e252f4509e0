"""Auto-PruMUX: exact on bilinear surfaces, never beyond the budget, honest about what it was not fitted to."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prumux.auto import AutoPruMUX
from prumux.auto.models import GroupTime, LatencyModel, OutOfRange, Surface
from prumux.auto.points import Point, choose_task
from prumux.auto.replay import replay
from prumux.auto.search import BUDGETS
from prumux.errors import UserError

NS, SS = (1, 2, 5, 10), (0.0, 0.6, 0.7, 0.8, 0.9, 0.95)
GRID = list(itertools.product(NS, SS))


def bilinear(n, s, a=(0.9, -0.012, -0.06, -0.004)):
    return a[0] + a[1] * n + a[2] * s + a[3] * n * s


def group_time(n, s):
    return 0.02 + 0.95 * (1 - s) + 0.03 * n


def grid(noise=0.0, seed=0, keys=GRID, task="A"):
    rng = np.random.default_rng(seed)
    dense = group_time(1, 0.0)
    return [
        Point(task, n, s, bilinear(n, s) + noise * rng.standard_normal(), n * dense / group_time(n, s))
        for n, s in keys
    ]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 10), s=st.floats(0, 0.95), a=st.tuples(*[st.floats(-1, 1)] * 4))
def test_a_bilinear_surface_is_recovered_exactly(n, s, a):
    surface = Surface({key: bilinear(*key, a) for key in GRID})
    assert surface(n, s) == pytest.approx(bilinear(n, s, a), abs=1e-9)


def test_exact_at_the_measured_points_of_any_surface():
    rng = np.random.default_rng(0)
    values = {key: rng.random() for key in GRID if rng.random() < 0.8 or key[1] == 0.6}
    surface = Surface(values)
    for key, value in values.items():
        assert surface(*key) == pytest.approx(value, abs=1e-12)


def test_piecewise_between_the_points():
    """Each cell has its own coefficients: the middle of a cell is the mean of its corners."""
    rng = np.random.default_rng(1)
    values = {key: rng.random() for key in itertools.product((2, 6, 10), (0.0, 0.5, 0.9))}
    surface = Surface(values)
    corners = [values[key] for key in itertools.product((2, 6), (0.5, 0.9))]
    assert surface(4, 0.7) == pytest.approx(np.mean(corners))


def test_outside_is_refused_unless_asked_for():
    surface = Surface({key: bilinear(*key) for key in GRID})
    for key in ((20, 0.6), (2, 0.99)):
        with pytest.raises(
            OutOfRange, match="outside the measured points: give candidates inside, or --extrapolate"
        ):
            surface(*key)
        assert surface(*key, extrapolate=True) == pytest.approx(bilinear(*key))


@pytest.mark.parametrize("keys", [[(1, 0.0), (1, 0.6)], [(1, 0.0), (2, 0.0)], [(1, 0.0)]])
def test_too_few_points(keys):
    with pytest.raises(UserError, match="too few results to fit"):
        AutoPruMUX(grid(keys=keys), "A")


def test_throughput_between_the_points_is_what_the_work_costs():
    points = {point.key: point for point in grid()}
    dense = group_time(1, 0.0)
    for model in (GroupTime(points), LatencyModel(points)):
        assert model(3, 0.85) == pytest.approx(3 * dense / group_time(3, 0.85), rel=1e-6)
    assert LatencyModel(points)(40, 0.97) == pytest.approx(40 * dense / group_time(40, 0.97), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(budget=st.sampled_from(BUDGETS), seed=st.integers(0, 1000))
def test_no_prediction_breaks_the_threshold_and_none_is_beaten(budget, seed):
    auto = AutoPruMUX(grid(0.01, seed), "A")
    predictions = auto.predict(budget, 5)
    threshold = auto.points[1, 0.0].accuracy - budget / 100
    assert all(p.accuracy >= threshold - 1e-9 for p in predictions)
    assert [p.throughput for p in predictions] == sorted((p.throughput for p in predictions), reverse=True)
    candidates = [key for key in auto.candidates() if auto.accuracy(*key) >= threshold]
    assert predictions[0].throughput == pytest.approx(max(auto.throughput(*key) for key in candidates))
    measured = [p for p in predictions if p.measured]
    assert all(p.accuracy == auto.points[p.num_instances, p.sparsity].accuracy for p in measured)


def test_the_known_best_is_found():
    auto = AutoPruMUX(grid(), "A")
    best = auto.predict(8, 1, num_instances=NS, sparsity=SS)[0]
    within = [p for p in grid() if p.accuracy >= bilinear(1, 0) - 0.08]
    assert (best.num_instances, best.sparsity) == max(within, key=lambda p: p.throughput).key


def test_the_candidates():
    auto = AutoPruMUX(grid(keys=[(1, 0.0), (1, 0.6), (2, 0.0), (2, 0.6), (5, 0.0), (5, 0.6)]), "A")
    assert {n for n, _ in auto.candidates()} == {1, 2, 3, 5}  # 1.5 and 3.5 are no numbers of inputs
    assert {s for _, s in auto.candidates()} == {0.0, 0.3, 0.6}
    with pytest.raises(OutOfRange):
        auto.predict(3, num_instances=[10])
    assert auto.predict(100, 50, num_instances=[10], extrapolate=True)
    with pytest.raises(UserError, match=r"no candidate reaches accuracy 0\.\d+ .*raise --loss_budget"):
        auto.predict(0, num_instances=[5], sparsity=[0.6])
    with pytest.raises(UserError, match="expected whole numbers from 1 on"):
        auto.predict(3, num_instances=[0])
    for budget in (-1.0, float("nan"), 101.0):
        with pytest.raises(UserError, match="the loss budget is"):
            auto.predict(budget)


def test_leave_one_out_is_what_brute_force_gives():
    points = grid(0.02, 3)
    auto = AutoPruMUX(points, "A")
    right_a, right_t = [], []
    for left in (p for p in points if p.num_instances > 1 and p.sparsity > 0):
        rest = AutoPruMUX([p for p in points if p is not left], "A")
        a, t = rest.accuracy(*left.key, extrapolate=True), rest.throughput(*left.key, extrapolate=True)
        right_a.append(abs(a - left.accuracy) <= 0.015)
        right_t.append(abs(t / left.throughput - 1) <= 0.2)
    quality = auto.quality()
    assert quality["points"] == 15
    assert quality["M_A"] == pytest.approx(np.mean(right_a))
    assert quality["M_T"] == pytest.approx(np.mean(right_t))
    assert 0 < quality["M_A"] < 1  # with this noise some are wrong


def test_the_error_of_a_throughput_is_the_leave_one_out_error():
    *points, last = grid()
    auto = AutoPruMUX([*points, replace(last, throughput=2 * last.throughput)], "A")
    shares = [r.predicted_throughput / r.throughput - 1 for r in auto.left_out()]
    assert auto.throughput_error() == pytest.approx(np.sqrt(np.mean(np.square(shares))))
    for prediction in auto.predict(100, 5):
        expected = 0.0 if prediction.measured else auto.throughput_error() * prediction.throughput
        assert prediction.throughput_error == pytest.approx(expected)


def test_points_on_the_threshold_meet_it_also_in_a_comparison_of_floats():
    rows = [(1, 0.0, 0.8, 1.0), (1, 0.6, 0.735, 5.0), (2, 0.0, 0.799, 2.0), (2, 0.6, 0.1, 8.0)]
    auto = AutoPruMUX([Point("A", *row) for row in rows], "A")
    best = auto.predict(6.5)[0]
    assert (best.num_instances, best.sparsity) == (1, 0.6)
    assert best.accuracy >= auto.threshold(6.5) == 0.735  # 0.8 - 0.065 is more than that in floats
    assert auto.best_measured(6.5).key == (1, 0.6)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (grid()[1:], "A has no row of the dense model"),
        ([replace(p, accuracy=100 * p.accuracy) for p in grid()], "a percentage"),
        ([replace(p, throughput=float("nan")) for p in grid()], "throughput is nan, expected a number"),
        ([*grid(), replace(grid()[3], accuracy=0.1)], "that disagree"),
    ],
)
def test_points_that_a_file_would_be_refused_with(points, message):
    with pytest.raises(UserError, match=message):
        AutoPruMUX(points, "A")


@pytest.mark.parametrize("wrong", [{"num_instances": [2.5]}, {"num_instances": []}, {"sparsity": [1.0]}])
def test_candidates_that_are_none(wrong):
    with pytest.raises(UserError, match="expected whole numbers from 1 on"):
        AutoPruMUX(grid(), "A").predict(3, **wrong)


def test_candidates_from_numpy():
    auto = AutoPruMUX(grid(), "A")
    found = auto.predict(8, 1, num_instances=np.array(NS), sparsity=np.array(SS))
    assert found == auto.predict(8, 1, num_instances=NS, sparsity=SS)


def test_fit_with_the_throughput_of_another_task(tmp_path):
    file = tmp_path / "results.csv"
    rows = [f"{task},{p.num_instances},{p.sparsity},{p.accuracy},{p.throughput * scale}"
            for task, scale in (("A", 1.0), ("B", 1.04)) for p in grid()]  # fmt: skip
    file.write_text("\n".join(["task,num_instances,sparsity,accuracy,throughput", *rows]))
    own, others = AutoPruMUX.fit(file, "a"), AutoPruMUX.fit(file, "A", throughput_task="b")
    assert others.throughput(5, 0.8) == pytest.approx(1.04 * own.throughput(5, 0.8))
    assert others.accuracy(5, 0.8) == own.accuracy(5, 0.8)


def test_throughput_of_another_task():
    a, b = grid(task="A"), [Point("B", *p.key, p.accuracy, p.throughput * 1.1) for p in grid()]
    auto = AutoPruMUX(a + b, "A", throughput_task="B")
    assert auto.predict(100, 1)[0].throughput == pytest.approx(1.1 * max(p.throughput for p in a))
    assert auto.quality()["M_T"] == 1.0
    far = [Point("B", *p.key, p.accuracy, p.throughput * 1.3) for p in grid()]
    assert AutoPruMUX(a + far, "A", throughput_task="B").quality()["M_T"] == 0.0
    with pytest.raises(UserError, match="no results of task C"):
        AutoPruMUX(a, "A", throughput_task="C")
    with pytest.raises(UserError, match="unknown throughput model"):
        AutoPruMUX(a, "A", throughput_model="guess")


def test_hit_rate_by_brute_force():
    points = grid(0.02, 5)
    auto = AutoPruMUX(points, "A")
    train = (0.6, 0.8, 0.95)
    fitted = AutoPruMUX([p for p in points if p.method != "PruMUX" or p.sparsity in train], "A")
    hits = []
    for budget in BUDGETS:
        threshold = bilinear_base(points) - budget / 100
        best = max((p for p in points if p.accuracy >= threshold), key=lambda p: p.throughput)
        ranked = sorted(
            (p for p in points if fitted.accuracy(*p.key) >= threshold), key=lambda p: -p.throughput
        )[:3]
        hits.append(best in ranked)
    assert auto.hit_rate(3, train_sparsity=train) == pytest.approx(np.mean(hits))
    assert AutoPruMUX(grid(), "A").hit_rate() == 1.0  # a bilinear surface is predicted exactly


def bilinear_base(points):
    return next(p.accuracy for p in points if p.key == (1, 0.0))


def test_what_to_train_next():
    keys = [key for key in GRID if key != (5, 0.8)]
    auto = AutoPruMUX(grid(keys=keys), "A")
    budget = 100 * (bilinear(1, 0) - bilinear(5, 0.8)) + 0.1
    first = auto.next_runs(budget, 1, [(5, 0.8)])[0]
    assert first["expected_gain"] >= 0
    assert first["probability"] > 0.5
    gains = [row["expected_gain"] for row in auto.next_runs(budget, 10)]
    assert gains == sorted(gains, reverse=True)
    assert not {(r["num_instances"], r["sparsity"]) for r in auto.next_runs(budget, 99)} & set(auto.points)


def test_the_search_needs_fewer_runs_than_the_grid():
    results = [replay(grid(), "A", budget) for budget in BUDGETS]
    assert all(result["found"] for result in results)
    assert max(result["runs"] for result in results) < results[0]["grid"]
    assert not all(result["first"] for result in results), "some had to be searched for"
    assert all(result["share"] == 1 for result in results)


def test_the_task_is_chosen_or_asked_for():
    points = grid(task="A")
    assert choose_task(points, None) == "A"
    assert choose_task(points, "a") == "A"
    with pytest.raises(UserError, match=r"results of several tasks \(A, B\): choose one with --task"):
        choose_task(points + grid(task="B"), None)


def test_nothing_is_extrapolated_from_one_row():
    """What N costs can't be known from one N: neither a constant nor a guess."""
    points = grid(keys=[(1, 0.0), (1, 0.6), (2, 0.0)])
    auto = AutoPruMUX(points, "A")
    with pytest.raises(OutOfRange, match="too few results to extrapolate"):
        auto.accuracy(100, 0.6, extrapolate=True)
    assert auto.left_out() == []
    assert auto.accuracy_error() == 0.015
    assert auto.throughput_error() == 0.20


def test_no_jump_where_a_row_ends():
    """A measured N is not continued by its neighbours: the surface would jump."""
    values = {key: bilinear(*key) for key in GRID if key != (2, 0.95)} | {(2, 0.9): 0.6}
    surface = Surface(values)
    with pytest.raises(OutOfRange):
        surface(2, 0.92)
    with pytest.raises(OutOfRange):
        surface(3, 0.92)  # its lower neighbour ends before
    assert surface(2, 0.92, extrapolate=True) < 0.6
    assert surface(7, 0.92) == pytest.approx(bilinear(7, 0.92))


def test_leave_one_out_of_the_surface_by_scipy():
    """Inside the grid, leaving a point out is linear interpolation between its neighbours in s."""
    points = grid(0.02, 7)
    values = {p.key: p.accuracy for p in points}
    for r in AutoPruMUX(points, "A").left_out():
        if r.sparsity < 0.95:
            others = [s for s in SS if s != r.sparsity]
            expected = np.interp(r.sparsity, others, [values[r.num_instances, s] for s in others])
            assert r.predicted_accuracy == pytest.approx(expected)


def test_counted_operations_make_the_latency_model_exact():
    """With structures whose work is not 1 - s, the counts say what a group costs."""

    def work(n, s):
        return (1.3 - s + 0.02 * n) / n  # operations of an example

    def time(n, s):
        return 0.1 + n * work(n, s) + 0.01 * n

    dense = time(1, 0.0)
    points = [Point("A", n, s, 0.8, n * dense / time(n, s), 0.0, work(n, s)) for n, s in GRID]
    model = LatencyModel({point.key: point for point in points})
    assert model(3, 0.65) == pytest.approx(3 * dense / time(3, 0.65), rel=1e-6)


def test_a_train_sparsity_that_was_not_measured():
    with pytest.raises(UserError, match=r"--train_sparsity 0.61 was not measured"):
        AutoPruMUX(grid(), "A").hit_rate(train_sparsity=[0.61])


def test_own_measurements_stay_beside_another_tasks_throughputs():
    """Paper section 4.3: those of CoFi and DataMUX models are measured, those of PruMUX are the other task's."""
    faster = [Point("B", *p.key, p.accuracy, 2 * p.throughput if p.key != (1, 0.0) else 1.0) for p in grid()]
    found = {
        (p.num_instances, p.sparsity): p.throughput
        for p in AutoPruMUX(grid(task="A") + faster, "A", throughput_task="B").predict(100, 1000)
    }
    for point in grid():
        assert found[point.key] == pytest.approx(point.throughput * (2 if point.method == "PruMUX" else 1))


@pytest.mark.parametrize("axis", [{"num_instances": [2, 20]}, {"sparsity": [0.6, 0.97]}])
def test_a_named_candidate_is_never_left_out_silently(axis):
    with pytest.raises(OutOfRange, match=r"every candidate with (N = 20|sparsity = 0.97) lies outside"):
        AutoPruMUX(grid(), "A").predict(3, **axis)
    assert AutoPruMUX(grid(), "A").predict(100, extrapolate=True, **axis)


def test_too_few_points_name_their_task():
    with pytest.raises(UserError, match="A: too few results to fit"):
        AutoPruMUX(grid(keys=[(1, 0.0)]), "A")
