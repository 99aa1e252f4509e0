"""Accuracy on a development set, throughput beside a dense baseline, and the search for a model."""
