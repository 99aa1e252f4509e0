"""Serving finished models: the fast forward, its engine, what it costs, and export."""
