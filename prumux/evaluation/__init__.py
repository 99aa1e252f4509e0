"""Accuracy over a development set, throughput against a dense baseline, and the search for the model to evaluate."""
