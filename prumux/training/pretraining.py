"""Retrieval warm-up and masked-language-model pretraining: their batches, their evaluation, their trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from prumux.data.grouping import GroupingCollator
from prumux.data.loading import TaskData
from prumux.errors import UserError
from prumux.models.modeling import PrumuxPreTrainedModel
from prumux.training.arguments import Arguments
from prumux.training.trainer import PrumuxTrainer


class MaskingCollator(GroupingCollator):
    """Groups of N with token labels: BERT's random masking, or none (retrieval alone)."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, num_instances: int, mlm_probability: float
    ) -> None:
        super().__init__(tokenizer, num_instances)
        self.masking = None
        if mlm_probability > 0:
            if tokenizer.mask_token_id is None:
                raise UserError(
                    "mlm_pretraining needs a tokenizer with a [MASK] token: choose another tokenizer"
                )
            self.masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=mlm_probability)
        self.special = torch.tensor(tokenizer.all_special_ids)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = super().__call__([{k: v for k, v in f.items() if k != "labels"} for f in features])
        batch["labels"] = torch.full_like(batch["input_ids"], -100)
        if self.masking is not None:
            special = torch.isin(batch["input_ids"], self.special)
            masked, labels = self.masking.torch_mask_tokens(
                batch["input_ids"].clone(), special_tokens_mask=special
            )
            labels[len(features) :] = -100  # filled rows don't count
            batch |= {"input_ids": masked, "labels": labels}
        return batch


def pretraining_trainer(
    arguments: Arguments, data: TaskData, tokenizer: PreTrainedTokenizerBase, model: PrumuxPreTrainedModel
) -> PrumuxTrainer:
    """The trainer of the phases before a task is known: retrieval warm-up and masked-language modelling."""
    mlm = arguments.data.mlm_probability if model.config.task_loss_coeff > 0 else 0.0
    collator = MaskingCollator(tokenizer, model.config.num_instances, mlm)
    evaluate_model = partial(
        evaluate_pretraining, data=data, collator=collator, rows=arguments.training.per_device_eval_batch_size
    )
    arguments.training.dataloader_drop_last = True
    return PrumuxTrainer(model, arguments, data, tokenizer, collator, evaluate_model)


@torch.no_grad()
def evaluate_pretraining(
    model: PrumuxPreTrainedModel, data: TaskData, collator: Callable[..., dict[str, Tensor]], rows: int
) -> dict[str, float]:
    """Retrieval accuracy or negated masked-token loss (larger is better) over the validation rows, seeded."""
    assert data.validation is not None  # the caller refuses that
    training = model.training
    model.eval()
    torch.manual_seed(0)  # which instances and tokens are drawn; the caller restores the random state
    totals: dict[str, float] = {}
    device, batches = next(model.parameters()).device, 0
    step = rows * model.config.num_instances
    for begin in range(0, len(data.validation), step):
        chunk = [data.validation[i] for i in range(begin, min(begin + step, len(data.validation)))]
        output = model(**{name: value.to(device) for name, value in collator(chunk).items()})
        batches += 1
        terms = {"retrieval_accuracy": output.retrieval_accuracy, "retrieval_loss": output.retrieval_loss}
        if output.task_loss is not None:
            terms = {"negative_mlm_loss": -output.task_loss} | terms
        for name, value in terms.items():
            if value is not None:
                totals[name] = totals.get(name, 0.0) + value.item()
    model.train(training)
    return {name: value / max(batches, 1) for name, value in totals.items()}
