"""Results on disk and on paper: JSON with its provenance, tables and figures."""
