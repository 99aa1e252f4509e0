"""What the teacher says about a batch; an unmultiplexed one says the same in every epoch, so it is asked once."""

from __future__ import annotations

import torch
from torch import Tensor

from prumux.models.modeling import PrumuxOutput, PrumuxPreTrainedModel


class Teaching:
    """Calls the teacher on a batch, and remembers what an unmultiplexed one said of each row."""

    def __init__(self, teacher: PrumuxPreTrainedModel, keep_bytes: float = 0.0) -> None:
        """``keep_bytes``: memory for remembered states, in half precision; rows beyond it are computed again."""
        self.teacher = teacher
        config = teacher.config
        by_row = not config.is_multiplexed and not config.attend_padding
        self._room = keep_bytes if by_row else 0.0
        self._rows: dict[bytes, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, features: dict[str, Tensor]) -> PrumuxOutput:
        """The teacher's logits and hidden states (of remembered rows: the last only) for ``features`` [R, L]."""
        if self._room <= 0 and not self._rows:
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
        fresh: dict[int, tuple[Tensor, Tensor]] = {}
        if new:
            longest = max(lengths[i] for i in new)
            output = self.teacher(
                **{name: value[new, :longest] for name, value in features.items()}, output_hidden_states=True
            )
            for place, i in enumerate(new):
                state, logits = output.hidden_states[-1][place, : lengths[i]], output.logits[place]
                if logits.dim() == 2:  # a tag per token
                    logits = logits[: lengths[i]]
                fresh[i] = state, logits
                if self._room > 0:
                    kept = state.to(torch.bfloat16).clone(), logits.clone()
                    self._rows[keys[i]] = kept
                    self._room -= kept[0].nbytes + kept[1].nbytes
        return self._assembled(ids, keys, lengths, fresh)

    def _assembled(
        self, ids: Tensor, keys: list[bytes], lengths: list[int], fresh: dict[int, tuple[Tensor, Tensor]]
    ) -> PrumuxOutput:
        width, classes = self.teacher.config.hidden_size, len(self.teacher.config.id2label)
        states = torch.zeros(*ids.shape, width, device=ids.device)
        tagged = next((row[1].dim() == 2 for row in (*fresh.values(), *self._rows.values())), False)
        logits = torch.zeros(*(ids.shape if tagged else ids.shape[:1]), classes, device=ids.device)
        for i, (key, length) in enumerate(zip(keys, lengths, strict=True)):
            if length:  # a filled row has no token and is not counted
                state, logit = fresh.get(i) or self._rows[key]
                states[i, :length] = state.to(states)
                logits[(i, slice(length)) if tagged else i] = logit.to(logits)
        return PrumuxOutput(logits=logits, hidden_states=(states,))
