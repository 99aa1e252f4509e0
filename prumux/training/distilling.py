"""`DistillationTrainer`: follows a teacher; with gates it prunes on the way, through one target or several."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prumux.data.augmentation import replace_tokens
from prumux.errors import UserError
from prumux.models.modeling import PrumuxPreTrainedModel
from prumux.pruning.accounting import Structure
from prumux.pruning.compaction import compact
from prumux.pruning.l0 import L0Gates
from prumux.pruning.snapping import evaluation_masks
from prumux.reports.methods import shown_sparsity
from prumux.training.arguments import precision
from prumux.training.distilled import Distilled
from prumux.training.folder import BEST, METRICS, ON_THE_WAY
from prumux.training.schedule import SparsitySchedule
from prumux.training.teaching import Teaching
from prumux.training.trainer import PrumuxTrainer

logger = logging.getLogger(__name__)
FAR = 0.05  # sparsity between the learned structure and the one that is kept, from which on it is worth a warning


class DistillationTrainer(PrumuxTrainer):
    """Follows a teacher; with gates, prunes on the way (paper section 3.1, phase 3)."""

    model: Distilled

    def __init__(
        self,
        model: Distilled,
        teacher: PrumuxPreTrainedModel,
        targets: tuple[float, ...],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """``targets``: ascending shares of the gates' cost to remove; none without gates."""
        super().__init__(model, *args, **kwargs)
        self.targets = targets
        self.add_callback(_EvaluateStages(self))
        teacher = teacher.eval().requires_grad_(False).to(self.args.device)
        pruning = self.settings.pruning
        keep, folder = pruning.keep_teacher_gb, pruning.teacher_states
        if pruning.replace_tokens:
            keep, folder = 0.0, None
            logger.info("the teacher is asked in every step: rows with other words don't come again")
        special = self.processing_class.all_special_ids  # type: ignore[union-attr]
        self._special = torch.tensor(special, device=self.args.device)
        self.teaching = Teaching(teacher, keep * 2**30, folder, precision(self.args), layers=not model.states)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        result = super().train(*args, **kwargs)
        if self.is_world_process_zero():
            self.teaching.save()
        return result

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

    @functools.cached_property
    def schedule(self) -> SparsitySchedule:
        """The target of every step."""
        pruning = self.settings.pruning
        steps = self.args.max_steps if self.args.max_steps > 0 else self._steps(self.args.num_train_epochs)
        start = self._steps(pruning.prepruning_finetune_epochs)
        targets = self.targets or (0.0,)
        if (ratio := pruning.lagrangian_warmup_ratio) is not None:
            warmup = round(ratio * (steps - start) / len(targets))
        else:
            warmup = self._steps(pruning.lagrangian_warmup_epochs)
        gates = self.distilled.gates
        before = 0.0 if gates is None else gates.cost.removed()  # the start may be pruned already
        return SparsitySchedule(targets, steps, start, warmup, before)

    def check_schedule(self) -> None:
        """Refuse a schedule that ends before the gates are used, or in which a target's model would be lost.

        Raises:
            UserError: pre-pruning finetuning takes all steps, fewer steps than targets, two targets with one folder.
        """
        pruning, schedule = self.settings.pruning, self.schedule
        if schedule.start >= schedule.steps:
            raise UserError(
                f"--prepruning_finetune_epochs {pruning.prepruning_finetune_epochs:g} takes all {schedule.steps} steps "
                "of the training: give less of it or a larger --num_train_epochs"
            )
        if schedule.steps - schedule.start < len(self.targets):
            raise UserError(
                f"{len(self.targets)} targets in {schedule.steps - schedule.start} steps of pruning: give fewer "
                "--target_sparsity or a larger --num_train_epochs"
            )
        names = [shown_sparsity(target) for target in self.targets]
        if len(set(names)) < len(names):
            raise UserError(
                f"--target_sparsity {' '.join(f'{t:g}' for t in self.targets)}: two of them would share the folder "
                f"{ON_THE_WAY}{max(names, key=names.count)}: leave one out"
            )
        if schedule.start + schedule.warmup > schedule.end(0):
            logger.warning(
                "the training is over before the warm-up has raised the target to %g: the structure will be cut to it "
                "at the end; the warm-up has %d of %d steps (--lagrangian_warmup_epochs)",
                self.targets[0],
                schedule.warmup,
                schedule.end(0) - schedule.start,
            )

    @property
    def _prunes(self) -> bool:
        """Are the gates in use."""
        return self.distilled.gates is not None and self.state.global_step >= self.schedule.start

    def _target(self, stage: int) -> float:
        """The target of this step within a stage; it rises during the Lagrangian warm-up."""
        gates = self.distilled.gates
        if gates is None:
            return 0.0
        return self.schedule.target(self.state.global_step, stage, gates.schedule)

    @property
    def _stage(self) -> int:
        """The stage whose model there is now."""
        return self.schedule.reached(self.state.global_step)

    @property
    def best_dir(self) -> Path:
        """The last target's model is in ``best``; those on the way in ``sparsity0.60/best`` and so on."""
        if self.distilled.gates is None or self._stage == len(self.targets) - 1:
            return super().best_dir
        return self._stage_dir(self._stage)

    def _stage_dir(self, stage: int) -> Path:
        return super().best_dir.parent / f"{ON_THE_WAY}{shown_sparsity(self.targets[stage])}" / BEST

    def kept_models(self) -> list[tuple[float | None, Path]]:
        before = [] if self.distilled.gates is None else list(enumerate(self.targets))[:-1]
        found = [(target, self._stage_dir(stage)) for stage, target in before]
        return [
            (target, folder) for target, folder in found if (folder / METRICS).is_file()
        ] + super().kept_models()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if self.distilled.gates is not None:
            self.distilled.gates.clamp_()
        pruning = self.settings.pruning
        features = {name: value for name, value in inputs.items() if name != "labels"}
        if pruning.replace_tokens:
            features = replace_tokens(features, pruning.replace_tokens, self._special)
            inputs = inputs | features
        with self.accelerator.autocast():
            teacher = self.teaching(features)
        terms = model(
            inputs,
            teacher,
            pruning=self._prunes,
            target=self._target(self.schedule.stage(self.state.global_step)),
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
            pruning = self.settings.pruning
            own = {"lr": pruning.reg_learning_rate, "weight_decay": 0.0}
            optimizer.add_param_group({"params": list(gates.log_alpha.values()), **own})
            if pruning.multiplier_learning_rate is not None:
                own["lr"] = pruning.multiplier_learning_rate
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
        """Has the expected sparsity reached the stage's target (less epsilon), or is the stage over."""
        gates, pruning = self.distilled.gates, self.settings.pruning
        done = self.state.global_step
        if gates is None or done >= self.state.max_steps or self.schedule.is_end(done):
            return True
        target = self.targets[self._stage]
        reached = gates.expected_sparsity().item() >= target - pruning.sparsity_epsilon
        return self._prunes and self._target(self._stage) >= target and reached

    def eligible(self) -> bool:
        return self._at_target()

    def current(self) -> PrumuxPreTrainedModel:
        gates, pruning = self.distilled.gates, self.settings.pruning
        if gates is None or not self._prunes:
            return self.student
        gates.clamp_()
        if not self._at_target():
            return compact(self.student, gates.deterministic())
        target = self.targets[self._stage]
        masks, moved = evaluation_masks(gates, target, pruning.sparsity_epsilon, pruning.round_to)
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
                ": the schedule is too short, give it more --num_train_epochs or a larger --multiplier_learning_rate"
                if far
                else "",
            )
        return compact(self.student, masks)

    def _save_best(self, folder: Path, model: PrumuxPreTrainedModel, metrics: dict[str, float]) -> None:
        super()._save_best(folder, model, metrics)
        if self.distilled.layer_map is not None:  # finetuning goes on with it
            ours, left = (
                config.kept_hidden or list(range(config.hidden_size))
                for config in (self.student.config, model.config)
            )
            self.distilled.layer_map.save(folder, [ours.index(dimension) for dimension in left])

    def _evaluation_logs(self) -> dict[str, float]:
        gates = self.distilled.gates
        if gates is None:
            return {}
        left = Structure.of(gates.config, gates.deterministic())
        logger.info("hidden %d, heads %s, FFN %s", left.hidden, list(left.heads), list(left.intermediate))
        return {
            "eval_expected_sparsity": gates.expected_sparsity().item(),
            "eval_target": self._target(self._stage),
        }


class _EvaluateStages(TrainerCallback):
    """Evaluate where a stage ends, so that every target leaves a model."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        gates = self._trainer.distilled.gates
        if gates is not None and self._trainer.schedule.is_end(state.global_step):
            control.should_evaluate = True
        return control


def _constant(step: int) -> float:
    return 1.0
