"""Trains, prunes, finetunes or evaluates on a sentence task: `python run_glue.py --help`."""

from __future__ import annotations

import sys

from prumux.errors import guard


def main() -> None:
    from prumux.reports.tables import format_run
    from prumux.training.phases import run

    print(format_run(run(sys.argv[1:])))


if __name__ == "__main__":
    guard(main)
