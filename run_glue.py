"""Trains, prunes, finetunes or evaluates on a sentence task: `python run_glue.py --help`."""

from __future__ import annotations

import os
import sys

from prumux.errors import guard


def main() -> None:
    from prumux.reports.tables import format_run
    from prumux.training.phases import run

    record = run(sys.argv[1:])
    if os.environ.get("RANK", "0") == "0":  # one of several processes under torchrun
        print(format_run(record))


if __name__ == "__main__":
    guard(main)
