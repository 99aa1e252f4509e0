"""`export_onnx`: a finished classifier as an ONNX file for other runtimes, checked in ONNX Runtime."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from prumux.errors import UserError
from prumux.files import save_atomically
from prumux.inference.forward import FastForward
from prumux.models.heads import PrumuxClassifier

logger = logging.getLogger(__name__)

FILE = "model.onnx"
TOLERANCE = 1e-4  # largest difference of logits, relative to the largest of them where that is above 1
REMEDY = "pip install -e '.[onnx]' in the project's folder"


class _Rows(nn.Module):
    """The fast forward with the inputs of Hugging Face's models: rows instead of groups."""

    def __init__(self, model: PrumuxClassifier) -> None:
        super().__init__()
        self.fast = FastForward(model, torch.float32)
        self.num_instances = model.config.num_instances

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        def grouped(values: Tensor) -> Tensor:
            return values.reshape(-1, self.num_instances, values.shape[-1])

        attended = grouped(attention_mask) > 0
        types = None if token_type_ids is None else grouped(token_type_ids)
        return self.fast(grouped(input_ids), attended, types)


def export_onnx(model: PrumuxClassifier, folder: str | Path, tokenizer: object | None = None) -> float | None:
    """Write ``folder`` with ``model.onnx``, the configuration and the tokenizer.

    The file takes ``input_ids``, ``attention_mask`` and, of a model that reads them, ``token_type_ids``, each
    ``[rows, length]`` with any length and any multiple of N rows, and gives ``logits``.

    Returns:
        The largest difference between ONNX Runtime's logits and the model's; ``None`` where ONNX Runtime isn't
        installed and nothing was checked.

    Raises:
        UserError: the ONNX packages are missing, the folder can't be written, or the logits differ.
    """
    try:
        import onnxscript  # noqa: F401  (what torch's exporter needs)
    except ImportError as error:
        raise UserError(f"the ONNX packages are not installed: {REMEDY}") from error
    if not isinstance(model, PrumuxClassifier):
        raise UserError(f"{type(model).__name__} is no PruMUX classifier: convert it first (prumux convert)")
    folder = Path(folder).resolve()
    if folder == Path.cwd() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise UserError(f"{folder} exists already: choose another folder, or remove it")
    model = copy.deepcopy(model).cpu().float().eval()
    difference: float | None = None

    def write(new: Path) -> None:
        nonlocal difference
        _export(model, new / FILE)
        difference = _check(model, new / FILE)
        model.config.save_pretrained(new)
        if tokenizer is not None:
            tokenizer.save_pretrained(new)  # type: ignore[attr-defined]

    save_atomically(folder, write)
    return difference


def _inputs(model: PrumuxClassifier, groups: int, length: int) -> dict[str, Tensor]:
    """Random rows with a ragged mask."""
    config = model.config
    rows = groups * config.num_instances
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(config.vocab_size, (rows, length), generator=generator)
    lengths = torch.arange(rows) % length + 1
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(length) < lengths[:, None]).long()}
    if config.use_token_types and config.type_vocab_size > 1:
        inputs["token_type_ids"] = ids % config.type_vocab_size
    return inputs


def _export(model: PrumuxClassifier, file: Path) -> None:
    rows = _Rows(model).eval()
    inputs = _inputs(model, groups=3, length=min(11, rows.fast.max_length))
    groups, length = torch.export.Dim("groups", min=2), torch.export.Dim("length", min=2)
    dims = {0: model.config.num_instances * groups if model.config.num_instances > 1 else groups, 1: length}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's remarks on itself
        torch.onnx.export(
            rows,
            (),
            str(file),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(inputs, dims),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@torch.no_grad()
def _check(model: PrumuxClassifier, file: Path) -> float | None:
    """The largest difference of logits on batches of other sizes than the exported one."""
    try:
        import onnxruntime
    except ImportError:
        logger.warning("onnxruntime is not installed: %s was not checked (%s)", file.name, REMEDY)
        return None
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    largest = 0.0
    for groups, length in ((2, 5), (4, 9)):
        inputs = _inputs(model, groups, length)
        theirs = model(**inputs).logits
        ours = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])
        if theirs.dim() == 3:  # at padding there is nothing to compare
            ours, theirs = ours[inputs["attention_mask"].bool()], theirs[inputs["attention_mask"].bool()]
        difference = (ours - theirs).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, theirs.abs().max().item()):
            raise UserError(
                f"the exported model's logits differ by {difference:.2g} from the model's: not written"
            )
        largest = max(largest, difference)
    return largest
