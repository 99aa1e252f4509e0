"""`plan`: a grid -> jobs, each one command with its folder and the jobs it builds on."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prumux.errors import UserError
from prumux.grid.config import SWITCHES, GridConfig, project_file
from prumux.reports.methods import shown_sparsity
from prumux.training.recipes import read_recipe, resolved


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: unique, readable. script: run_glue.py or evaluation.py. argv: its arguments. result: the file that is
            there when it is done. needs: names of the jobs before it. task, num_instances: what it is about.
        models: the run.json of each model that an evaluation is about.
    """

    name: str
    script: str
    argv: tuple[str, ...]
    result: Path
    needs: tuple[str, ...]
    task: str
    num_instances: int
    models: tuple[Path, ...] = ()

    @property
    def done(self) -> bool:
        """The result is there; of an evaluation, it is of this very command and no older than the models' records."""
        if not self.result.is_file() or self.script != "evaluation.py":
            return self.result.is_file()
        try:
            made = json.loads(self.result.read_text(encoding="utf-8"))["provenance"]["command"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        written = self.result.stat().st_mtime
        return self._is_made_by(made) and not any(
            model.is_file() and model.stat().st_mtime > written for model in self.models
        )

    @property
    def trains(self) -> bool:
        return self.script == "run_glue.py"

    def _is_made_by(self, command: str) -> bool:
        """Is it this job's command, from whatever folder it was given."""
        try:
            _, script, *argv = shlex.split(command)
        except ValueError:
            return False
        return Path(script).name == self.script and tuple(argv) == self.argv

    def command(self) -> str:
        return shlex.join(["python", self.script, *self.argv])


def plan(grid: GridConfig) -> list[Job]:
    """All jobs, in an order in which each follows those it needs.

    Raises:
        UserError: the recipe can't be read.
    """
    sections = recipe_sections(grid.recipe)
    jobs: list[Job] = []
    for seed, task in itertools.product(grid.seeds, grid.tasks):
        jobs += _Task(grid, task, seed, sections).jobs()
    names = [job.name for job in jobs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(
            f"the grid gives two runs the folder of {twice}, which names the sparsity by three decimals and the weight "
            "of layer distillation: give alphas of different first values and sparsities that differ there"
        )
    return jobs


def pick(jobs: Iterable[Job], name: str) -> list[Job]:
    """The job ``name`` alone, its needs taken as done.

    Raises:
        UserError: there is none, or something it needs is missing.
    """
    by_name = {job.name: job for job in jobs}
    if name not in by_name:
        raise UserError(f"no job '{name}' in this grid: --dry_run lists them")
    job = by_name[name]
    missing = [need for need in job.needs if not by_name[need].done]
    if missing:
        raise UserError(f"{name} needs {', '.join(missing)}, which is not done: run it first")
    return [by_name[need] for need in job.needs] + [job]


def recipe_sections(recipe: str) -> dict[str, Any]:
    """The sections of a recipe, its path read from the working directory or the project.

    Raises:
        UserError: it can't be read.
    """
    return read_recipe(project_file(recipe))


class _Task:
    """The jobs of one task and seed; folders are those of the scripts, below one per seed where there are several."""

    def __init__(self, grid: GridConfig, task: str, seed: int, sections: dict[str, Any]) -> None:
        self.grid, self.task, self.seed, self.sections = grid, task, seed, sections
        self.root = Path(grid.output_dir)
        if len(grid.seeds) > 1:
            self.root /= f"seed_{seed}"
        self.folder = self.root / task
        self.prefix = f"{task}/" if len(grid.seeds) == 1 else f"seed_{seed}/{task}/"
        self.dense_teacher = sections.get("teacher") == "dense"

    def jobs(self) -> list[Job]:
        grid = self.grid
        start = (
            ["--config_name", str(project_file(grid.config))]
            if grid.config
            else ["--model_name_or_path", str(grid.model)]
        )
        jobs = [self._train("dense", 1, ["--setting", "baseline", *start], [])]
        jobs.append(self._evaluate("dense", 1, 0.0, ["dense"]))
        for layers in grid.layers:
            name = f"layers_{layers}"
            flags = ["--setting", "finetuning", "--model_name_or_path", self._best("dense"), "--num_hidden_layers",
                     str(layers), "--distillation_path", self._best("dense"), "--distill_states", "True",
                     *self._states()]  # fmt: skip
            jobs.append(self._train(name, 1, flags, ["dense"]))
            jobs.append(self._evaluate_folder(name))
        for n in grid.num_instances:
            before = [] if n == 1 else self._multiplexed(n)
            jobs += before
            teacher = "dense" if n == 1 else f"mux_{n}"
            if n > 1 and 0 in grid.sparsity:
                jobs.append(self._evaluate(teacher, n, 0.0, [teacher]))
            targets = [s for s in grid.sparsity if s > 0]
            if targets:
                jobs += self._pruned(n, targets, teacher)
        return jobs

    # ---- phases

    def _multiplexed(self, n: int) -> list[Job]:
        """Warm-up (where the recipe has one) and finetuning."""
        weights = self._best("dense") if self.grid.config or self.dense_teacher else str(self.grid.model)
        jobs, needs = [], ["dense"]
        if "retrieval_pretraining" in self.sections and not self.dense_teacher:
            flags = ["--setting", "retrieval_pretraining", "--model_name_or_path", weights]
            jobs.append(self._train(f"retrieval_{n}", n, flags, ["dense"]))
            weights, needs = self._best(f"retrieval_{n}"), ["dense", f"retrieval_{n}"]
        flags = ["--setting", "finetuning", "--model_name_or_path", weights, *self._taught_by_dense()]
        jobs.append(self._train(f"mux_{n}", n, flags, needs))
        return jobs

    def _taught_by_dense(self) -> list[str]:
        return ["--distillation_path", self._best("dense"), *self._states()] if self.dense_teacher else []

    def _states(self) -> list[str]:
        """What the dense model says of a row is the same for all who learn from it."""
        return ["--teacher_states", str(self.root / "teacher_states")]

    def _pruned(self, n: int, targets: list[float], teacher: str) -> list[Job]:
        jobs: list[Job] = []
        finetuned: dict[float, list[str]] = {target: [] for target in targets}
        taught = self._taught_by_dense() or ["--distillation_path", self._best(teacher)]
        # what the grid doesn't try is left to the recipe; folders are named by what it says
        alphas = [
            (layer, ["--distill_layer_loss_alpha", f"{layer:g}", "--distill_ce_loss_alpha", f"{ce:g}"])
            for layer, ce in self.grid.alphas
        ] or [(self._recipes("pruning", n, "distill_layer_loss_alpha", 0.9), [])]
        rates = [(rate, ["--learning_rate", f"{rate:g}"]) for rate in self.grid.learning_rate] or [
            (self._recipes("finetuning_pruned", n, "learning_rate", 5e-5), [])
        ]
        for version, (layer, weights) in itertools.product(self.grid.layer_distill_version, alphas):
            tried = ["--layer_distill_version", str(version), *weights, *taught]
            for together in [targets] if self.grid.in_one_run else [[target] for target in targets]:
                last = together[-1]
                name = self._pruned_name(last, n, version, layer)
                if len(together) > 1:
                    name = f"PruMUX/{self.task}_all_{n}_{version}_{layer:g}"
                flags = ["--setting", "pruning", "--model_name_or_path", self._best(teacher), "--target_sparsity",
                         *(f"{s:g}" for s in together), *tried]  # fmt: skip
                jobs.append(self._train(name, n, flags, [teacher, "dense"]))
                for target, (rate, rate_flags) in itertools.product(together, rates):
                    start = (
                        self.folder
                        / name
                        / ("best" if target == last else f"sparsity{shown_sparsity(target)}/best")
                    )
                    tuned = f"{self._pruned_name(target, n, version, layer)}/FT-lr{rate:g}"
                    flags = [
                        "--setting",
                        "finetuning",
                        "--model_name_or_path",
                        str(start),
                        *tried,
                        *rate_flags,
                    ]
                    jobs.append(self._train(tuned, n, flags, [name]))
                    finetuned[target].append(tuned)
        jobs += [self._evaluate(f"PruMUX_{n}_{target:g}", n, target, finetuned[target]) for target in targets]
        return jobs

    def _recipes(self, section: str, n: int, flag: str, default: float) -> float:
        """What the recipe says of a flag for this N and task."""
        path = Path(self.grid.recipe)
        value = resolved(self.sections, section, n, self.task, path).get(flag, default)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"recipe {path}, section {section}: {flag} is {value!r}, expected a number"
            ) from error

    def _pruned_name(self, target: float, n: int, version: int, layer: float) -> str:
        return f"PruMUX/{self.task}_sparsity{shown_sparsity(target)}_{n}_{version}_{layer:g}"

    # ---- commands

    def _best(self, name: str) -> str:
        return str(self.folder / name / "best")

    def _data(self) -> list[str]:
        return _as_flags({key: value for key, value in self.grid.tasks[self.task].items() if key != "flags"})

    def _train(self, name: str, n: int, flags: Sequence[str], needs: Iterable[str]) -> Job:
        folder = self.folder / name
        more = self.grid.flags | self.grid.tasks[self.task].get("flags", {})
        argv = [
            *flags, "--task_name", self.task, *self._data(), "--recipe", str(project_file(self.grid.recipe)),
            "--num_instances", str(n), "--seed", str(self.seed), *_as_flags(more), "--do_train", "--do_eval",
            "--output_dir", str(folder),
        ]  # fmt: skip
        return Job(
            self.prefix + name, "run_glue.py", tuple(argv), folder / "run.json",
            tuple(self.prefix + need for need in needs), self.task, n,
        )  # fmt: skip

    def _evaluate(self, name: str, n: int, sparsity: float, needs: Iterable[str]) -> Job:
        return self._evaluation(name, n, [f"{sparsity:g}", str(n)], needs)

    def _evaluate_folder(self, name: str) -> Job:
        return self._evaluation(name, 1, ["--model", self._best(name)], ["dense", name])

    def _evaluation(self, name: str, n: int, model: Sequence[str], needs: Iterable[str]) -> Job:
        result = self.root / "evaluations" / self.task / f"{name}.json"
        argv = [
            self.task, *model, *self._data(), "--output_dir", str(self.root), "--baseline", self._best("dense"),
            *_as_flags(self.grid.evaluation), "--json", str(result),
        ]  # fmt: skip
        needs = dict.fromkeys(("dense", *needs))
        return Job(
            f"{self.prefix}evaluate {name}", "evaluation.py", tuple(argv), result,
            tuple(self.prefix + need for need in needs), self.task, n,
            tuple(self.folder / need / "run.json" for need in needs),
        )  # fmt: skip


def _as_flags(values: dict[str, Any]) -> list[str]:
    """``{name: value}`` as ``--name value``; for evaluation.py's switches ``true`` gives the name alone."""
    flags: list[str] = []
    for name, value in values.items():
        if name in SWITCHES and isinstance(value, bool):
            flags += [f"--{name}"] if value else []
        else:
            flags += [f"--{name}", str(value)]
    return flags
