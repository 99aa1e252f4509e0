"""Jobs that need no training: each writes the file that its argument names, or fails."""

from __future__ import annotations

import pytest

from prumux.grid import run
from prumux.grid.plan import Job

SCRIPT = (
    "import pathlib, sys; sys.exit(1) if sys.argv[1] == 'fail' else pathlib.Path(sys.argv[1]).write_text('x')"
)


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    (tmp_path / "job.py").write_text(SCRIPT)
    monkeypatch.setattr(run, "PROJECT", tmp_path)

    def job(name: str, *needs: str, fails: bool = False) -> Job:
        result = tmp_path / "out" / name
        return Job(name, "job.py", ("fail" if fails else str(result),), result, needs, "toy", 1)

    return [
        job("a"),
        job("b", "a"),
        job("bad", "a", fails=True),
        job("after", "bad"),
        job("last", "after", "b"),
    ]
