"""The authors' archive of pruned models, unpacked as it is: found by its folder names and converted once."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from prumux.evaluation.locate import shown

logger = logging.getLogger(__name__)
ARCHIVE = "prumux-models"  # what the authors' archive unpacks to: TASK/TASK_SPARSITY_N/best


def from_archive(task: str, sparsity: float, num_instances: int, output_dir: str | Path) -> Path | None:
    """Our folder with the model of a triple in the authors' archive; ``None`` if the archive or the triple is missing.

    The archive is looked for in the working directory, in the project's folder and in ``output_dir``; the environment
    variable ``PRUMUX_MODELS`` names another place.

    Raises:
        UserError: it is there but can't be converted.
    """
    converted = Path(output_dir) / task / "converted" / f"{task}_{sparsity:.2f}_{num_instances}" / "best"
    if (converted / "config.json").is_file():
        return converted
    project = Path(__file__).resolve().parents[2]
    named = os.environ.get("PRUMUX_MODELS")
    roots = [Path(named)] if named else [Path(), project, Path(output_dir), Path(output_dir).parent]
    spellings = {task, task.replace("-", "")}
    for root in roots:
        for name in sorted(spellings):
            for written in (f"{sparsity:.2f}", f"{sparsity:g}"):
                found = (
                    (root if named else root / ARCHIVE) / name / f"{name}_{written}_{num_instances}" / "best"
                )
                if (found / "config.json").is_file():
                    return _convert(found, converted, task)
    return None


def _convert(found: Path, converted: Path, task: str) -> Path:
    from prumux.checkpoints.convert import convert_checkpoint

    conversion = convert_checkpoint(found, converted, task=task)
    logger.warning("%s is the authors' checkpoint: converted once to %s", shown(found), shown(converted))
    logger.info("%s", conversion)
    return converted
