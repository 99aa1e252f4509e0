"""Auto-PruMUX: which (N, sparsity) gives the most throughput within an accuracy budget (paper section 4)."""
