"""Retrieval warm-up and masked-language-model pretraining: their batches, their evaluation, their trainer."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from prumux.data.grouping import IGNORE, GroupingCollator
from prumux.data.loading import TaskData
from prumux.errors import UserError
from prumux.models.modeling import PrumuxPreTrainedModel
from prumux.training.arguments import Arguments
from prumux.training.trainer import PrumuxTrainer

logger = logging.getLogger(__name__)


class MaskingCollator(GroupingCollator):
    """Groups of N with token labels: BERT's random masking, or none (retrieval alone).

    The seed and the batch itself decide what is masked: a row meets new neighbours, and so new masks, in every epoch,
    and a run that is resumed masks what the uninterrupted one would have.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, num_instances: int, mlm_probability: float, seed: int = 0
    ) -> None:
        super().__init__(tokenizer, num_instances)
        self.seed = seed
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
        batch["labels"] = torch.full_like(batch["input_ids"], IGNORE)
        if self.masking is not None:
            special = torch.isin(batch["input_ids"], self.special)
            content = zlib.crc32(batch["input_ids"].numpy().tobytes(), self.seed)
            self.masking.generator = torch.Generator().manual_seed(content)
            masked, labels = self.masking.torch_mask_tokens(
                batch["input_ids"].clone(), special_tokens_mask=special
            )
            labels[len(features) :] = IGNORE  # filled rows don't count
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
    collator = MaskingCollator(tokenizer, model.config.num_instances, mlm, arguments.training.seed)
    evaluate_model = partial(
        evaluate_pretraining,
        data=data,
        collator=collator,
        groups=arguments.training.per_device_eval_batch_size,
    )
    arguments.training.dataloader_drop_last = True
    trainer = PrumuxTrainer(model, arguments, data, tokenizer, collator, evaluate_model)
    if arguments.data.stop_at_retrieval_accuracy is not None:
        retrieves = model.config.is_multiplexed and model.config.retrieval_loss_coeff > 0
        if not retrieves or arguments.training.eval_strategy == "no":
            raise UserError(
                "--stop_at_retrieval_accuracy is never reached: it needs --retrieval_loss_coeff above 0, "
                "--num_instances 2 or more, and evaluations (--eval_strategy steps)"
            )
        trainer.add_callback(StopWhenSolved(arguments.data.stop_at_retrieval_accuracy))
    return trainer


class StopWhenSolved(TrainerCallback):
    """Ends the training at the first evaluation whose retrieval accuracy reaches ``share``."""

    def __init__(self, share: float) -> None:
        self.share = share

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        reached = given["metrics"].get("eval_retrieval_accuracy", 0.0)
        if reached >= self.share:
            logger.info("step %d: retrieval accuracy %.4f, the warm-up ends here", state.global_step, reached)
            control.should_training_stop = True


@torch.no_grad()
def evaluate_pretraining(
    model: PrumuxPreTrainedModel, data: TaskData, collator: Callable[..., dict[str, Tensor]], groups: int
) -> dict[str, float]:
    """Retrieval accuracy or negated masked-token loss (larger is better) over the validation rows, seeded.

    With the retrieval loss also its accuracy in each slot of the groups, ``retrieval_accuracy_slot_I``.
    """
    assert data.validation is not None  # the caller refuses that
    training = model.training
    model.eval()
    torch.manual_seed(0)  # which instances and tokens are drawn; the caller restores the random state
    slots: Tensor | None = None  # (N, 2): named, asked for
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    device = next(model.parameters()).device
    step = groups * model.config.num_instances
    for begin in range(0, len(data.validation), step):
        chunk = [data.validation[i] for i in range(begin, min(begin + step, len(data.validation)))]
        batch = {name: value.to(device) for name, value in collator(chunk).items()}
        output = model(**batch)
        # a batch weighs as much as it has tokens to name
        tokens, masked = batch["attention_mask"].sum().item(), (batch["labels"] != IGNORE).sum().item()
        terms = {"retrieval_loss": (output.retrieval_loss, tokens)}
        if output.retrieval_slots is not None:
            slots = output.retrieval_slots if slots is None else slots + output.retrieval_slots
        if output.task_loss is not None and masked:
            terms = {"negative_mlm_loss": (-output.task_loss, masked)} | terms
        for name, (value, weight) in terms.items():
            if value is not None:
                sums[name] = sums.get(name, 0.0) + value.item() * weight
                weights[name] = weights.get(name, 0.0) + weight
    model.train(training)
    if not sums:
        raise UserError(
            f"no token of {data.name}'s {len(data.validation)} development rows was masked, so there is nothing to "
            "measure: give more of them or a larger --mlm_probability"
        )
    found = {name: value / weights[name] for name, value in sums.items()}
    if slots is not None:
        shares = (slots[:, 0] / slots[:, 1].clamp_min(1)).tolist()
        accuracy = {"retrieval_accuracy": (slots[:, 0].sum() / slots[:, 1].sum().clamp_min(1)).item()}
        by_slot = {f"retrieval_accuracy_slot_{i}": share for i, share in enumerate(shares)}
        mlm = {name: found.pop(name) for name in ("negative_mlm_loss",) if name in found}  # it decides
        found = mlm | accuracy | found | by_slot
    return found
