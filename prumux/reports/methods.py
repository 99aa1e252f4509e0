"""The names of what is compared: the paper's four methods, and the rivals beside them."""

from __future__ import annotations

DENSE_SPARSITY = 0.005  # below this a model counts as not pruned
FEWER_LAYERS = "fewer layers"  # the encoder's first layers alone
PAPER = ("dense", "CoFi", "DataMUX", "PruMUX")
METHODS = (*PAPER, FEWER_LAYERS)


def method_name(
    num_instances: int, sparsity: float, layers: int | None = None, dense_layers: int | None = None
) -> str:
    """The paper's name of a point (N, s): dense, CoFi (pruned), DataMUX (multiplexed) or PruMUX (both).

    ``layers``, ``dense_layers``: of the model and of the dense one; an unpruned model that lacks some is a rival.
    """
    pruned = sparsity >= DENSE_SPARSITY
    if num_instances > 1:
        return "PruMUX" if pruned else "DataMUX"
    if pruned:
        return "CoFi"
    return (
        FEWER_LAYERS if layers is not None and dense_layers is not None and layers < dense_layers else "dense"
    )


def shown_sparsity(sparsity: float) -> str:
    """Two decimals, three where the third is not 0."""
    text = f"{sparsity:.3f}"
    return text[:-1] if text.endswith("0") else text
