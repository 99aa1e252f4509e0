"""Where the numbers recorded from the authors' code are, and how they are read."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from prumux import Masks

GOLDEN = Path(
    os.environ.get("PRUMUX_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden")
)  # see CONTRIBUTING.md
MISSING = "missing"  # in the place of a case where there is none
TOLERANCE = 5e-5  # the recording's own float32 noise is below 1e-5


def names(pattern: str) -> list[str]:
    """Cases by name; one placeholder where there are none, so that the skip shows."""
    return sorted(path.name for path in GOLDEN.glob(pattern)) or [MISSING]


def tensors(case: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / case / "golden.safetensors")


def meta(case: str) -> dict:
    return json.loads((GOLDEN / case / "case.json").read_text())


def masks_of(golden: dict[str, Tensor], prefix: str = "z.") -> Masks:
    """The recorded z tensors as masks."""
    shapes = {"head": "head_z", "intermediate": "intermediate_z"}
    flat = {"hidden": "hidden_z", "mlp": "mlp_z", "head_layer": "head_layer_z"}
    values = {f: golden[prefix + n].flatten(1) for f, n in shapes.items() if prefix + n in golden}
    values |= {f: golden[prefix + n] for f, n in flat.items() if prefix + n in golden}
    return Masks(**values)
