"""Hugging Face's Trainer with groups of N, evaluation by our own protocol, and pruning with distillation."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PreTrainedTokenizerBase, Trainer

from prumux.data.grouping import IGNORE, LengthGroupedSampler
from prumux.data.loading import TaskData
from prumux.errors import UserError
from prumux.evaluation.predict import evaluate
from prumux.files import recover, save_atomically
from prumux.models.heads import classification_loss
from prumux.models.modeling import PrumuxOutput, PrumuxPreTrainedModel
from prumux.pruning.accounting import Structure
from prumux.pruning.compaction import compact
from prumux.pruning.distillation import (
    LayerMap,
    layer_distillation_loss,
    logit_distillation_loss,
    state_distillation_loss,
)
from prumux.pruning.gates import Gates
from prumux.pruning.l0 import L0Gates
from prumux.pruning.masks import Masks
from prumux.pruning.snapping import evaluation_masks
from prumux.training.arguments import Arguments
from prumux.training.folder import BEST
from prumux.training.teaching import Teaching

logger = logging.getLogger(__name__)
HEAD = ("bert.demultiplexer.", "classifier.")  # parameters that --head_learning_rate is for
FAR = 0.05  # sparsity between the learned structure and the one that is kept, from which on it is worth a warning


class PrumuxTrainer(Trainer):
    """Trains a model with a head; evaluates it over groupings; keeps the best one in ``OUTPUT_DIR/best``."""

    processing_class: PreTrainedTokenizerBase

    def __init__(
        self,
        model: nn.Module,
        arguments: Arguments,
        data: TaskData,
        tokenizer: PreTrainedTokenizerBase,
        collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
        evaluate_model: Callable[[PrumuxPreTrainedModel], dict[str, float]] | None = None,
    ) -> None:
        """``evaluate_model`` replaces the task's metrics (pretraining has none); the first metric it gives decides."""
        self.settings = arguments
        self.task = data
        self._evaluate_model = evaluate_model or self._task_metrics
        self._terms: dict[str, list[Tensor]] = {}
        super().__init__(
            model=model,
            args=arguments.training,
            data_collator=collator,
            train_dataset=data.train,
            eval_dataset=data.validation,
            processing_class=tokenizer,
        )
        self.model_accepts_loss_kwargs = False

    @property
    def student(self) -> PrumuxPreTrainedModel:
        """The model that is trained."""
        return self.accelerator.unwrap_model(self.model)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        return LengthGroupedSampler(
            dataset["length"][:],  # the slice reads the column at once, its iterator row by row
            self.student.config.num_instances,
            self.args.train_batch_size,
            seed=self.args.seed,
        )

    # ---- losses

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        output = model(**inputs)
        self._note(
            task=output.task_loss,
            retrieval=output.retrieval_loss,
            retrieval_accuracy=output.retrieval_accuracy,
        )
        return (output.loss, output) if return_outputs else output.loss

    def _note(self, **terms: Tensor | None) -> None:
        """Remember loss terms by name for the next log line."""
        for name, value in terms.items():
            if value is not None:
                self._terms.setdefault(name, []).append(value.detach())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = logs | {name: torch.stack(values).mean().item() for name, values in self._terms.items()}
            self._terms.clear()
        super().log(logs, start_time)

    # ---- optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        rate = self.settings.pruning.head_learning_rate
        if created and rate is not None:
            head = {id(value) for name, value in self.student.named_parameters() if name.startswith(HEAD)}
            for group in list(optimizer.param_groups):
                own = [value for value in group["params"] if id(value) in head]
                if own:
                    group["params"] = [value for value in group["params"] if id(value) not in head]
                    others = {name: value for name, value in group.items() if name != "params"}
                    optimizer.add_param_group(others | {"params": own, "lr": rate})
        return optimizer

    # ---- evaluation and the best model

    def _task_metrics(self, model: PrumuxPreTrainedModel) -> dict[str, float]:
        return evaluate(
            model,
            self.task,
            self.processing_class,
            batch_size=self.args.per_device_eval_batch_size * model.config.num_instances,
            num_groupings=self.settings.data.num_groupings,
            seed=self.args.seed,
            progress=False,
        )

    def current(self) -> PrumuxPreTrainedModel:
        """The model as it would be deployed now."""
        return self.student

    def eligible(self) -> bool:
        """May the current model become the best one."""
        return True

    def measure(self) -> dict[str, float]:
        """The metrics of the model as it is, without any record of it."""
        return self._evaluate_model(self.student)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        model = self.current()
        with torch.random.fork_rng():  # evaluation must not move the training's random state
            metrics = self._evaluate_model(model)
        eligible = self.eligible()
        if eligible:
            self._keep_if_best(model, metrics)
        logs = {
            f"{metric_key_prefix}_{name}": value for name, value in metrics.items()
        } | self._evaluation_logs()
        self.log(logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def _evaluation_logs(self) -> dict[str, float]:
        return {}

    @property
    def best_dir(self) -> Path:
        assert self.args.output_dir is not None  # it has a default
        return Path(self.args.output_dir) / BEST

    def best_metrics(self) -> dict[str, float] | None:
        """The metrics of the best model so far, read from its folder so that a resumed run knows them."""
        recover(self.best_dir)
        try:
            return json.loads((self.best_dir / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None

    def _keep_if_best(self, model: PrumuxPreTrainedModel, metrics: dict[str, float]) -> None:
        name = next(iter(metrics))
        if not self.args.should_save or not math.isfinite(metrics[name]):
            return
        best = self.best_metrics()
        if best is not None and best[name] >= metrics[name]:
            return
        save_atomically(self.best_dir, lambda folder: self._save_best(folder, model, metrics))

    def _save_best(self, folder: Path, model: PrumuxPreTrainedModel, metrics: dict[str, float]) -> None:
        model.save_pretrained(folder)
        self.processing_class.save_pretrained(folder)
        record = metrics | {"step": self.state.global_step}
        (folder / "metrics.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


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
        counted = inputs["labels"] != IGNORE  # filled rows teach nothing
        terms["ce_distillation"] = logit_distillation_loss(
            output.logits[counted], teacher.logits[counted], temperature
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


class DistillationTrainer(PrumuxTrainer):
    """Follows a teacher; with gates, prunes on the way (paper section 3.1, phase 3)."""

    model: Distilled

    def __init__(self, model: Distilled, teacher: PrumuxPreTrainedModel, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        teacher = teacher.eval().requires_grad_(False).to(self.args.device)
        keep = self.settings.pruning.keep_teacher_gb if model.states else 0.0
        self.teaching = Teaching(teacher, keep * 2**30)

    @property
    def distilled(self) -> Distilled:
        return self.accelerator.unwrap_model(self.model)

    @property
    def student(self) -> PrumuxPreTrainedModel:
        return self.distilled.student

    # ---- schedule

    def _steps(self, epochs: float) -> int:
        """Optimizer steps in so many epochs."""
        assert self.task.train is not None
        batches = math.ceil(len(self.task.train) / (self.args.train_batch_size * self.args.world_size))
        return math.ceil(epochs * math.ceil(batches / self.args.gradient_accumulation_steps))

    def check_schedule(self) -> None:
        """Refuse a schedule that ends before the gates are used.

        Raises:
            UserError: pre-pruning finetuning takes all the steps.
        """
        pruning = self.settings.pruning
        steps = self.args.max_steps if self.args.max_steps > 0 else self._steps(self.args.num_train_epochs)
        before = self._steps(pruning.prepruning_finetune_epochs)
        if before >= steps:
            raise UserError(
                f"--prepruning_finetune_epochs {pruning.prepruning_finetune_epochs:g} takes all {steps} steps of the "
                "training: give less of it or a larger --num_train_epochs"
            )
        if before + self._steps(pruning.lagrangian_warmup_epochs) > steps:
            logger.warning(
                "the training is over before the warm-up has raised the target to %g: the structure will be cut to it "
                "at the end; --lagrangian_warmup_epochs is %g",
                pruning.target,
                pruning.lagrangian_warmup_epochs,
            )

    def _pruned_steps(self) -> int:
        """Steps since the gates are in use; negative before."""
        return self.state.global_step - self._steps(self.settings.pruning.prepruning_finetune_epochs)

    def _target(self) -> float:
        """The target sparsity of this step: it rises linearly during the Lagrangian warm-up."""
        warmup = self._steps(self.settings.pruning.lagrangian_warmup_epochs)
        share = 1.0 if warmup == 0 else max(0.0, min(1.0, self._pruned_steps() / warmup))
        if self.distilled.gates is not None:
            share = self.distilled.gates.schedule(share)
        return self.settings.pruning.target * share

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if self.distilled.gates is not None:
            self.distilled.gates.clamp_()
        features = {name: value for name, value in inputs.items() if name != "labels"}
        teacher = self.teaching(features)
        pruning = self.settings.pruning
        terms = model(
            inputs,
            teacher,
            pruning=self.distilled.gates is not None and self._pruned_steps() >= 0,
            target=self._target(),
            version=pruning.layer_distill_version,
            temperature=pruning.distill_temp,
            layer_alpha=pruning.distill_layer_loss_alpha,
            state_alpha=pruning.distill_state_loss_alpha,
            task_alpha=pruning.distill_task_loss_alpha,
            ce_alpha=pruning.distill_ce_loss_alpha,
        )
        loss = terms.pop("loss")
        self._note(**terms)
        return (loss, terms) if return_outputs else loss

    # ---- optimizer: weights as usual, gates with their own rate, multipliers by ascent

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        gates = self.distilled.gates
        if self.optimizer is None and isinstance(gates, L0Gates):
            for parameter in gates.parameters():
                parameter.requires_grad_(False)  # hidden from the groups that the base class makes
            optimizer = super().create_optimizer(model)
            if "maximize" not in optimizer.defaults:  # the multipliers climb
                raise UserError(
                    f"--optim {self.args.optim} can't maximise, as pruning must: choose adamw_torch"
                )
            for parameter in gates.parameters():
                parameter.requires_grad_(True)
            own = {"lr": self.settings.pruning.reg_learning_rate, "weight_decay": 0.0}
            optimizer.add_param_group({"params": list(gates.log_alpha.values()), **own})
            optimizer.add_param_group({"params": list(gates.multipliers()), "maximize": True, **own})
        return super().create_optimizer(model)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LRScheduler:
        created = self.lr_scheduler is None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if created and isinstance(self.distilled.gates, L0Gates):
            if not isinstance(scheduler, LambdaLR):
                raise UserError(
                    f"--lr_scheduler_type {self.args.lr_scheduler_type} can't be used in pruning: choose linear, "
                    "constant or cosine"
                )
            weights = scheduler.lr_lambdas[:-2]
            scheduler = LambdaLR(scheduler.optimizer, [*weights, _constant, _constant])
            self.lr_scheduler = scheduler
        return scheduler

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        # the gates' gradients don't shrink the student's
        return self.accelerator.clip_grad_norm_(self._student_parameters(), self.args.max_grad_norm)

    def _student_parameters(self) -> Iterator[nn.Parameter]:
        yield from self.distilled.student.parameters()
        if self.distilled.layer_map is not None:
            yield from self.distilled.layer_map.parameters()

    # ---- evaluation on the compacted model

    def _at_target(self) -> bool:
        """Has the expected sparsity reached the target (less epsilon), or is training over."""
        gates, pruning = self.distilled.gates, self.settings.pruning
        if gates is None or self.state.global_step >= self.state.max_steps:
            return True
        reached = gates.expected_sparsity().item() >= pruning.target - pruning.sparsity_epsilon
        return self._pruned_steps() >= 0 and self._target() >= pruning.target and reached

    def eligible(self) -> bool:
        return self._at_target()

    def current(self) -> PrumuxPreTrainedModel:
        gates, pruning = self.distilled.gates, self.settings.pruning
        if gates is None or self._pruned_steps() < 0:
            return self.student
        gates.clamp_()
        if not self._at_target():
            return compact(self.student, gates.deterministic())
        masks, moved = evaluation_masks(gates, pruning.target, pruning.sparsity_epsilon, pruning.round_to)
        if moved:
            learned, reached = gates.cost.removed(gates.deterministic()), gates.cost.removed(masks)
            far = abs(reached - learned) > FAR
            logger.log(
                logging.WARNING if far else logging.INFO,
                "step %d: the gates' own structure has %s %.3f, moved to %.3f by importance%s",
                self.state.global_step,
                gates.cost.unit,
                learned,
                reached,
                ": the schedule is too short, give it more --num_train_epochs" if far else "",
            )
        return compact(self.student, masks)

    def _evaluation_logs(self) -> dict[str, float]:
        gates = self.distilled.gates
        if gates is None:
            return {}
        left = Structure.of(gates.config, gates.deterministic())
        logger.info("hidden %d, heads %s, FFN %s", left.hidden, list(left.heads), list(left.intermediate))
        return {"eval_expected_sparsity": gates.expected_sparsity().item(), "eval_target": self._target()}


def _constant(step: int) -> float:
    return 1.0
