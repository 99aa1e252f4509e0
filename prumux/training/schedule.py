"""`SparsitySchedule`: which target holds at which step, through one sparsity after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class SparsitySchedule:
    """Targets reached one after the other, with equally many steps each; every one rises from the one before.

    Attributes:
        targets: ascending shares to remove. steps: of the whole training. start: steps before the gates are in use.
        warmup: steps in which a target rises. before: the share that is gone at the start, from which the first rises.
    """

    targets: tuple[float, ...]
    steps: int
    start: int
    warmup: int
    before: float = 0.0

    def end(self, stage: int) -> int:
        """Steps done when a stage is over."""
        return self.start + (self.steps - self.start) * (stage + 1) // len(self.targets)

    def stage(self, done: int) -> int:
        """The stage of the step after ``done`` steps."""
        return next((i for i in range(len(self.targets)) if done < self.end(i)), len(self.targets) - 1)

    def reached(self, done: int) -> int:
        """The stage whose model there is after ``done`` steps: at the end of a stage still that one."""
        return self.stage(max(done - 1, 0))

    def is_end(self, done: int) -> bool:
        """Has a stage just ended."""
        return done in {self.end(i) for i in range(len(self.targets))}

    def target(self, done: int, stage: int, shape: Callable[[float], float]) -> float:
        """The share to remove after ``done`` steps; ``shape`` bends the rise of the warm-up (0 to 0, 1 to 1)."""
        begin = self.end(stage - 1) if stage else self.start
        share = 1.0 if self.warmup == 0 else max(0.0, min(1.0, (done - begin) / self.warmup))
        before = self.targets[stage - 1] if stage else self.before
        if share >= 1:
            return self.targets[stage]  # to the last digit
        return before + (self.targets[stage] - before) * shape(share)
