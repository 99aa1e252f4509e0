"""`Distilled`: a student's losses while it follows a teacher, with its layer map and, in pruning, its gates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prumux.models.heads import classification_loss, counted
from prumux.models.modeling import PrumuxOutput, PrumuxPreTrainedModel
from prumux.pruning.accounting import Structure
from prumux.pruning.distillation import (
    LayerMap,
    layer_distillation_loss,
    logit_distillation_loss,
    state_distillation_loss,
)
from prumux.pruning.gates import Gates
from prumux.pruning.masks import Masks


class Distilled(nn.Module):
    """What is trained while a teacher is followed: the student, its layer map and, in pruning, its gates."""

    def __init__(
        self,
        student: PrumuxPreTrainedModel,
        layer_map: LayerMap | None,
        gates: Gates | None,
        *,
        states: bool = False,
    ) -> None:
        """``layer_map`` may be ``None`` where the student's vectors are as wide as the teacher's.

        ``states``: an unmultiplexed teacher teaches every (demultiplexed) token its last state, instead of layers.
        """
        super().__init__()
        self.student = student
        self.layer_map = layer_map
        self.gates = gates
        self.states = states
        self.config = student.config

    def forward(
        self,
        inputs: dict[str, Tensor],
        teacher: PrumuxOutput,
        *,
        pruning: bool,
        target: float,
        version: int,
        temperature: float,
        layer_alpha: float,
        ce_alpha: float,
        state_alpha: float = 1.0,
        task_alpha: float = 0.0,
    ) -> dict[str, Tensor]:
        """Loss terms by name; ``loss`` is the weighted sum (METHOD in docs/method.md).

        Args:
            teacher: the teacher's output on the same inputs, with hidden states.
            pruning: sample the gates and add the Lagrangian for sparsity ``target``.
        """
        assert teacher.logits is not None
        assert teacher.hidden_states is not None
        masks: Masks | None = None
        terms: dict[str, Tensor] = {}
        if pruning:
            assert self.gates is not None
            masks = self.gates.sample()
            terms["lagrangian"], terms["expected_sparsity"] = self.gates.penalty(target)
        features = {name: value for name, value in inputs.items() if name != "labels"}
        output = self.student(
            **features, masks=masks, output_hidden_states=True, output_separated=self.states
        )
        real = counted(inputs["labels"])  # filled rows teach nothing
        terms["ce_distillation"] = logit_distillation_loss(
            output.logits[real], teacher.logits[real], temperature
        )
        terms["loss"] = ce_alpha * terms["ce_distillation"]
        if self.states:
            separated = output.separated if self.layer_map is None else self.layer_map(output.separated)
            terms["state_distillation"] = state_distillation_loss(
                separated, teacher.hidden_states[-1], inputs["attention_mask"]
            )
            terms["loss"] = terms["loss"] + state_alpha * terms["state_distillation"]
        else:
            assert self.layer_map is not None
            terms["layer_distillation"] = layer_distillation_loss(
                output.hidden_states,
                teacher.hidden_states,
                self.layer_map,
                version=version,
                alive=self._alive(masks, version),
                attended=None if self.config.attend_padding else output.attended,
            )
            terms["loss"] = terms["loss"] + layer_alpha * terms["layer_distillation"]
        if task_alpha > 0:
            terms["task"] = classification_loss(output.logits, inputs["labels"])
            terms["loss"] = terms["loss"] + task_alpha * terms["task"]
        if pruning:
            assert self.gates is not None
            terms["loss"] = terms["loss"] + terms["lagrangian"]
            if torch.is_grad_enabled():
                self.gates.observe(
                    ce_alpha * terms["ce_distillation"] + task_alpha * terms.get("task", torch.zeros(()))
                )
        return terms

    def _alive(self, masks: Masks | None, version: int) -> list[bool]:
        """Which layers can be matched: in version 2 those with any block, else those whose attention survives."""
        left = Structure.of(self.config, masks.detach() if masks is not None else None)
        if version == 2:
            return [h > 0 or f > 0 for h, f in zip(left.heads, left.intermediate, strict=True)]
        return [h > 0 for h in left.heads]
