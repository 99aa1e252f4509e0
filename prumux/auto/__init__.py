"""Auto-PruMUX: which (N, sparsity) gives the most throughput within an accuracy budget (paper section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prumux.auto.search import AutoPruMUX

__all__ = ["AutoPruMUX"]


def __getattr__(name: str) -> Any:
    """``AutoPruMUX``, imported when it is asked for: the command line alone needs no scipy."""
    if name in __all__:
        from prumux.auto.search import AutoPruMUX

        return AutoPruMUX
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
