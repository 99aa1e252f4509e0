"""Text to tokens to groups of N: the tasks, the embedded toy data, loading and grouping."""
