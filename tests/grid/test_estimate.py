"""The plan for people, with the time it takes."""

from __future__ import annotations

from prumux.grid.estimate import describe


def test_the_plan_for_people(jobs):
    assert "bad (2.0 min)" in describe(jobs, {"bad": 120})
    assert "5 jobs, 0 done" in describe(jobs)
