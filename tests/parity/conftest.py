"""Numbers recorded from the authors' code; without their folder the tests of this directory are skipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from prumux import convert_checkpoint
from tests.parity.recorded import GOLDEN, MISSING


def pytest_collection_modifyitems(items):
    if not GOLDEN.is_dir():
        skip = pytest.mark.skip(reason=f"no recorded numbers in {GOLDEN}: set PRUMUX_GOLDEN to their folder")
        for item in items:
            if Path(__file__).parent in Path(item.path).parents:
                item.add_marker(skip)
    for item in items:  # see recorded.names
        if MISSING in getattr(getattr(item, "callspec", None), "params", {}).values():
            item.add_marker(pytest.mark.skip(reason=f"no recorded case of this kind in {GOLDEN}"))


@pytest.fixture
def converted(tmp_path):
    """Converts a recorded checkpoint folder and returns ours."""

    def convert(folder: str, name: str = "ours", **kwargs) -> Path:
        source = GOLDEN / folder
        if not (source / "pytorch_model.bin").is_file():  # masks of the first case's weights
            whole = tmp_path / "whole"
            shutil.rmtree(whole, ignore_errors=True)
            shutil.copytree(GOLDEN / "a_index_pos_gauss_n2" / "checkpoint", whole)
            shutil.copy(source / "zs.pt", whole)
            source = whole
        convert_checkpoint(source, tmp_path / name, **kwargs)
        return tmp_path / name

    return convert
