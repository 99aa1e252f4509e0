"""Trains, prunes, finetunes or evaluates on words with tags: `python run_ner.py --help`. Flags as run_glue.py's."""

from __future__ import annotations

import sys

from prumux.errors import guard
from run_glue import main

if __name__ == "__main__":
    sys.argv[1:1] = ["--tag_words"]
    guard(main)
