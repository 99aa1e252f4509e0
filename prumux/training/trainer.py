"""Hugging Face's Trainer with groups of N, evaluation by our own protocol, and pruning with distillation."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from prumux.data.grouping import GroupingCollator, LengthGroupedSampler
from prumux.data.loading import TaskData
from prumux.evaluation.predict import evaluate
from prumux.files import recover, save_atomically
from prumux.models.modeling import PrumuxPreTrainedModel
from prumux.training.arguments import Arguments
from prumux.training.folder import BEST, METRICS

logger = logging.getLogger(__name__)
HEAD = ("bert.demultiplexer.", "classifier.")  # parameters that --head_learning_rate is for


class StepEnds(TrainerCallback):
    """Notes when each step ended, in seconds of a monotonic clock: what an estimate of a training's time needs."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.monotonic())


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
            megabatch=self.settings.data.megabatch,
            similar_neighbours=self.settings.data.similar_neighbours,
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
        assert isinstance(self.data_collator, GroupingCollator)  # the phases give no other
        return evaluate(
            model,
            self.task,
            self.processing_class,
            batch_size=self.args.per_device_eval_batch_size * model.config.num_instances,
            num_groupings=self.settings.data.num_groupings,
            seed=self.args.seed,
            pad_to_length=self.data_collator.pad_to_length,
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
        # evaluation must not move the training's random state
        with torch.random.fork_rng(), self.accelerator.autocast():
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

    def kept_models(self) -> list[tuple[float | None, Path]]:
        """The models that a finished run leaves: the sparsity that each was pruned for, if any, and its folder."""
        return [(None, self.best_dir)]

    def best_metrics(self) -> dict[str, float] | None:
        """The metrics of the best model so far, read from its folder so that a resumed run knows them."""
        recover(self.best_dir)
        try:
            return json.loads((self.best_dir / METRICS).read_text(encoding="utf-8"))
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
        (folder / METRICS).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
