"""`SparsitySchedule`: one target after the other, each rising from the one before."""

from __future__ import annotations

from prumux.training.schedule import SparsitySchedule


def linear(share: float) -> float:
    return share


def test_one_target():
    schedule = SparsitySchedule((0.5,), 24, 0, 4)
    assert [schedule.target(done, schedule.stage(done), linear) for done in (0, 1, 4, 23, 24)] == [
        0,
        0.125,
        0.5,
        0.5,
        0.5,
    ]
    assert schedule.is_end(24)


def test_several_targets():
    schedule = SparsitySchedule((0.4, 0.8), 22, 2, 4)
    assert [schedule.end(i) for i in (0, 1)] == [12, 22]
    assert schedule.target(2, schedule.stage(2), linear) == 0
    assert schedule.target(11, schedule.stage(11), linear) == 0.4
    assert schedule.stage(12) == 1
    assert schedule.reached(12) == 0
    assert [round(schedule.target(done, 1, linear), 6) for done in (12, 14, 16, 21)] == [0.4, 0.6, 0.8, 0.8]
    assert schedule.target(14, 1, lambda share: share**2) == 0.4 + 0.4 * 0.25
    assert [done for done in range(23) if schedule.is_end(done)] == [12, 22]


def test_the_target_rises_from_what_is_gone_already():
    schedule = SparsitySchedule((0.95, 0.98), 20, 0, 4, before=0.75)
    assert [round(schedule.target(done, 0, linear), 6) for done in (0, 2, 4)] == [0.75, 0.85, 0.95]
    assert schedule.target(10, 1, linear) == 0.95
