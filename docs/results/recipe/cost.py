"""Draws docs/results/recipe/cost.png, accuracy over what training cost, from the records beside it.

python docs/results/recipe/cost.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RECORDS = Path(__file__).resolve().parents[1]
WARM_UP = 600 * 32  # groups of the retrieval warm-up (results/variants/run.sh)
NARROW = 3159 * 64 / 14  # rows of the narrow encoder (words_narrow_5), which is 14 times as fast, as groups
# N -> (label, record, groups per step, groups before it, line)
CURVES = {
    2: [
        ("labels, after warm-up (DataMUX)", "recipe/labels_2", 64, WARM_UP, ("#e6850e", ":", "^")),
        ("dense teacher, after warm-up", "recipe/warmed_up_2", 32, WARM_UP, ("0.55", "-.", "D")),
        ("copies, dense teacher", "recipe/copies_2", 32, 0, ("#08519c", "--", "s")),
        ("today's recipe", "recipe/without_words_mux_2", 32, 0, ("#238b45", "-", "o")),
    ],
    5: [
        ("labels, after warm-up (DataMUX)", "recipe/labels_5", 64, WARM_UP, ("#e6850e", ":", "^")),
        ("copies, dense teacher", "recipe/copies_5", 16, 0, ("#08519c", "--", "s")),
        ("today's recipe", "recipe/words_mux_5", 16, NARROW, ("#238b45", "-", "o")),
    ],
}


def curve(record: str, groups: int, before: int) -> tuple[list[float], list[float]]:
    """Thousands of groups that went through the encoder in training, and the accuracy that was measured then."""
    history = json.loads((RECORDS / f"{record}.json").read_text(encoding="utf-8"))["history"]
    points = [(entry["step"], entry["eval_accuracy"]) for entry in history if "eval_accuracy" in entry]
    return [(before + step * groups) / 1000 for step, _ in points], [accuracy for _, accuracy in points]


figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
for panel, (n, curves) in zip(panels, CURVES.items(), strict=True):
    for label, record, groups, before, (color, line, marker) in curves:
        panel.plot(*curve(record, groups, before), color=color, linestyle=line, marker=marker, label=label)
    panel.set(
        title=f"SST-2, N = {n}", xlabel="groups trained on, warm-up included (thousands)", xlim=(0, None)
    )
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8, loc="lower right" if n == 2 else "center right")
panels[0].set_ylabel("accuracy on the development set")
figure.savefig(RECORDS / "recipe" / "cost.png", dpi=120)
