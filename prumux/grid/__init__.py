"""The experiment grid: tasks x N x sparsities x hyperparameters, planned, run, resumed and estimated."""
