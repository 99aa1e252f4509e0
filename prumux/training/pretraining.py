"""Retrieval warm-up and masked-language-model pretraining: their batches, their evaluation, their trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from prumux.data.grouping import IGNORE, GroupingCollator
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
    rows = arguments.training.per_device_train_batch_size
    if arguments.training.do_train and data.train is not None and len(data.train) < rows:
        raise UserError(
            f"{data.name} has {len(data.train)} training rows, fewer than a batch of {rows}: give a smaller "
            "--per_device_train_batch_size"
        )
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
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    device = next(model.parameters()).device
    step = rows * model.config.num_instances
    for begin in range(0, len(data.validation), step):
        chunk = [data.validation[i] for i in range(begin, min(begin + step, len(data.validation)))]
        batch = {name: value.to(device) for name, value in collator(chunk).items()}
        output = model(**batch)
        # a batch weighs as much as it has tokens to name
        tokens, masked = batch["attention_mask"].sum().item(), (batch["labels"] != IGNORE).sum().item()
        terms = {
            "retrieval_accuracy": (output.retrieval_accuracy, tokens),
            "retrieval_loss": (output.retrieval_loss, tokens),
        }
        if output.task_loss is not None and masked:
            terms = {"negative_mlm_loss": (-output.task_loss, masked)} | terms
        for name, (value, weight) in terms.items():
            if value is not None:
                sums[name] = sums.get(name, 0.0) + value.item() * weight
                weights[name] = weights.get(name, 0.0) + weight
    model.train(training)
    return {name: value / weights[name] for name, value in sums.items()}
