"""What the teacher says about a batch; an unmultiplexed one always says the same of a row and is asked once."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prumux.errors import UserError
from prumux.models.heads import PrumuxForTokenClassification
from prumux.models.modeling import PrumuxOutput, PrumuxPreTrainedModel
from prumux.reports.provenance import atomic_file

logger = logging.getLogger(__name__)
PIECE = 32  # rows that the teacher is asked about at once, of similar length: little of it is padding
INDIFFERENT = ("_name_or_path", "architectures", "dtype", "transformers_version")  # of a configuration


class Teaching:
    """Calls the teacher on a batch, and remembers what an unmultiplexed one said of each row."""

    def __init__(
        self,
        teacher: PrumuxPreTrainedModel,
        keep_bytes: float = 0.0,
        folder: str | Path | None = None,
        precision: str = "float32",
        *,
        layers: bool = False,
    ) -> None:
        """``keep_bytes``: memory for remembered states, in half precision; rows beyond it are computed again.

        ``folder``: where ``save`` leaves them for other runs with the same teacher (its weights, its configuration and
        ``precision``, in which it computes, name the file). Rows found there are mapped from the disk, so processes
        share them; they count as remembered.

        ``layers``: every layer's states are asked for, of which none are kept.

        Raises:
            UserError: the file in ``folder`` can't be read.
        """
        self.teacher = teacher
        config = teacher.config
        self._by_row = not (layers or config.is_multiplexed or config.attend_padding)
        self._room = keep_bytes if self._by_row else 0.0
        self._rows: dict[bytes, tuple[Tensor, Tensor]] = {}
        self._file = (
            Path(folder) / f"{_fingerprint(teacher, precision)}.safetensors"
            if folder and self._room > 0
            else None
        )
        if folder and self._file is None:
            logger.warning("nothing for --teacher_states: it keeps an unmultiplexed teacher's last states")
        if self._file is not None and self._file.is_file():
            self._rows = _read(self._file)
            self._room -= sum(state.nbytes + logits.nbytes for state, logits in self._rows.values())
            logger.info("%d rows of the teacher's states from %s", len(self._rows), self._file)
        self._saved = len(self._rows)

    def save(self) -> None:
        """Write what is remembered, and what other runs have left, to the folder, if there is one and anything is new.

        A folder that can't be written costs a warning, not the run.
        """
        if self._file is None or len(self._rows) == self._saved:
            return
        try:
            if self._file.is_file():
                self._rows = _read(self._file) | self._rows
            with atomic_file(self._file) as temporary:
                save_file(_packed(self._rows), temporary)
        except (UserError, SafetensorError) as error:
            logger.warning("the teacher's states are not kept for other runs: %s", error)
        self._saved = len(self._rows)

    @torch.no_grad()
    def __call__(self, features: dict[str, Tensor]) -> PrumuxOutput:
        """The teacher's logits and hidden states (of an unmultiplexed one the last only) for ``features`` [R, L]."""
        if not self._by_row:
            return self.teacher(**features, output_hidden_states=True)
        ids = features["input_ids"]
        lengths = features["attention_mask"].sum(1).tolist()
        columns = [
            features[name].cpu().numpy() for name in ("input_ids", "token_type_ids") if name in features
        ]
        keys = [
            b"".join(column[i, :length].tobytes() for column in columns) for i, length in enumerate(lengths)
        ]
        new = [i for i, key in enumerate(keys) if key not in self._rows and lengths[i]]
        new.sort(key=lengths.__getitem__)
        fresh: dict[int, tuple[Tensor, Tensor]] = {}
        for start in range(0, len(new), PIECE):
            fresh |= self._asked(features, new[start : start + PIECE], lengths)
        for i, (state, logits) in fresh.items():
            if self._room > 0:
                kept = state.cpu().clone(), logits.cpu().clone()  # an accelerator's memory is for training
                self._rows[keys[i]] = kept
                self._room -= kept[0].nbytes + kept[1].nbytes
        return self._assembled(ids, keys, lengths, fresh)

    def _asked(
        self, features: dict[str, Tensor], rows: list[int], lengths: list[int]
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """State and logits of some rows."""
        longest = max(lengths[i] for i in rows)
        output = self.teacher(
            **{name: value[rows, :longest] for name, value in features.items()}, output_hidden_states=True
        )
        said = {}
        for place, i in enumerate(rows):
            state, logits = output.hidden_states[-1][place, : lengths[i]], output.logits[place]
            if logits.dim() == 2:  # a tag per token
                logits = logits[: lengths[i]]
            # rounded the first time, too: a resumed run remembers other rows and must be taught the same
            said[i] = state.to(torch.bfloat16), logits
        return said

    def _assembled(
        self, ids: Tensor, keys: list[bytes], lengths: list[int], fresh: dict[int, tuple[Tensor, Tensor]]
    ) -> PrumuxOutput:
        width, classes = self.teacher.config.hidden_size, len(self.teacher.config.id2label)
        states = torch.zeros(*ids.shape, width, device=ids.device)
        tagged = isinstance(self.teacher, PrumuxForTokenClassification)
        logits = torch.zeros(*(ids.shape if tagged else ids.shape[:1]), classes, device=ids.device)
        for i, (key, length) in enumerate(zip(keys, lengths, strict=True)):
            if length:  # a filled row has no token and is not counted
                state, logit = fresh.get(i) or self._rows[key]
                states[i, :length] = state.to(states)
                logits[(i, slice(length)) if tagged else i] = logit.to(logits)
        return PrumuxOutput(logits=logits, hidden_states=(states,))


# ---- the file: rows one after the other


def _packed(rows: dict[bytes, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    states, logits = zip(*rows.values(), strict=True)
    tagged = logits[0].dim() == 2
    return {
        "keys": torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8),
        "key_sizes": torch.tensor([len(key) for key in rows]),
        "lengths": torch.tensor([len(state) for state in states]),
        "states": torch.cat([state.cpu() for state in states]),
        "logits": (torch.cat if tagged else torch.stack)([logit.cpu() for logit in logits]),
    }


def _read(file: Path) -> dict[bytes, tuple[Tensor, Tensor]]:
    try:
        packed = load_file(file)
        keys = packed["keys"].numpy().tobytes()
        lengths = packed["lengths"].tolist()
        states = packed["states"].split(lengths)
        by_token = len(packed["logits"]) != len(lengths)
        logits = packed["logits"].split(lengths) if by_token else packed["logits"].unbind()
        sizes = packed["key_sizes"].tolist()
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise UserError(
            f"can't read the teacher's states in {file} ({error}): delete it, it is made again"
        ) from error
    rows = {}
    start = 0
    for size, state, logit in zip(sizes, states, logits, strict=True):
        rows[keys[start : start + size]] = state, logit
        start += size
    return rows


def _fingerprint(model: PrumuxPreTrainedModel, precision: str) -> str:
    """Names what decides what the teacher says of a row."""
    fields = {name: value for name, value in model.config.to_dict().items() if name not in INDIFFERENT}
    digest = hashlib.sha256(json.dumps([precision, fields], sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
