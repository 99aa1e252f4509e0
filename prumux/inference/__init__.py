"""Serving finished models: the fast forward, its engine, what it costs, and export."""

from prumux.inference.cost import Cost, cost

__all__ = ["Cost", "cost"]
