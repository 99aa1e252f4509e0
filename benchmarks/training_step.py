"""A pruning step as this package does it beside the same step done plainly: python benchmarks/training_step.py --help.

Both steps train the same student on the same rows: teacher forward, sampled masks, student forward and backward, layer
and logit distillation, Lagrangian, clipping, optimizers. The plain one follows the authors' code: rows padded to the
full length and padding attended, the vocabulary head evaluated in teacher and student although its loss has weight 0,
every student layer mapped and compared with every taught layer inside the graph, one optimizer loop per tensor,
float32. The third row leaves the padding at the full length for ours, too; the last is a finetuning step after
pruning, on the compacted model. Steps take turns; a row is the median of the repeats, on a CPU in processor time of
one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
# Deciles of the number of tokens in the training rows of SST-2 (WordPiece, 8,000 rows).
LENGTHS = (3, 4, 6, 7, 8, 10, 12, 15, 20, 27, 66)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--config",
        default=str(PROJECT / "configs" / "models" / "minilm_l6.json"),
        help="default MiniLM's shape",
    )
    add("--num_instances", type=int, default=2, help="default 2")
    add("--groups", type=int, default=32, help="groups in a batch (default 32)")
    add("--sparsity", type=float, default=0.9, help="of the compacted model in the last row (default 0.9)")
    add("--max_seq_length", type=int, default=128, help="what the plain step pads to (default 128)")
    add("--device", choices=["cpu", "cuda"], help="default cuda if there is one")
    add("--repeats", type=int, default=5, help="default 5")
    add("--json", metavar="PATH", help="write the rows")
    args = parser.parse_args()
    if args.num_instances < 2:
        parser.error(
            f"--num_instances is {args.num_instances}: the plain step is a multiplexed one, give 2 or more"
        )
    return args


def main(args: argparse.Namespace) -> None:
    import torch

    from prumux.inference.hardware import resolve_device
    from prumux.reports.provenance import provenance, write_json

    device = resolve_device(args.device)
    clock: Callable[[], float] = time.perf_counter
    if device.type == "cpu":
        torch.set_num_threads(1)
        clock = time.process_time
    short, full = batches(args, device)
    steps: dict[str, tuple[Callable[[], Any], str]] = {
        "plain": (Plain(args, device).bind(full), "float32"),
        "ours": (Ours(args, device).bind(short), "bfloat16"),
        "ours, padded as the plain one": (Ours(args, device).bind(full), "bfloat16"),
        "ours, float32": (Ours(args, device, autocast=False).bind(short), "float32"),
        f"ours, finetuning at {args.sparsity:g}": (Finetuning(args, device).bind(short), "bfloat16"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses = {name: [float(step()) for _ in range(2)] for name, (step, _) in steps.items()}  # warm-up
    for _ in range(args.repeats):
        for name, (step, _) in steps.items():
            start = clock()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(clock() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        {
            "name": name,
            "dtype": steps[name][1],
            "seconds": medians[name],
            "seconds_min": min(seconds[name]),
            "seconds_max": max(seconds[name]),
            "speedup": medians["plain"] / medians[name],
            "first_loss": losses[name][0],
        }
        for name in steps
    ]
    print("| step | dtype | seconds | spread | speedup | first loss |\n| --- | --- | --: | --: | --: | --: |")
    for row in rows:
        print(
            f"| {row['name']} | {row['dtype']} | {row['seconds']:.3f} | {row['seconds_min']:.3f}-"
            f"{row['seconds_max']:.3f} | {row['speedup']:.2f} | {row['first_loss']:.3f} |"
        )
    if args.json:
        report = {"rows": rows, "settings": vars(args), "device": str(device), "provenance": provenance(0)}
        print(f"written: {write_json(args.json, report)}")


def batches(args: argparse.Namespace, device: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same rows, padded to the longest of the batch, and padded to the full length.

    A training batch holds groups whose longest rows are alike; the one timed here has the mean length of all batches.
    """
    import numpy as np
    import torch

    generator = np.random.default_rng(0)
    rows = args.groups * args.num_instances
    lengths = (
        np.interp(generator.random(50 * rows), np.linspace(0, 1, len(LENGTHS)), LENGTHS).round().astype(int)
    )
    groups = lengths.reshape(-1, args.num_instances)
    by_length = groups[np.argsort(groups.max(1))].reshape(50, rows)
    widths = by_length.max(1)
    chosen = by_length[np.abs(widths - widths.mean()).argmin()]
    vocabulary = read(args).vocab_size

    def padded(width: int) -> dict[str, Any]:
        mask = torch.arange(width) < torch.from_numpy(chosen)[:, None]
        ids = torch.randint(1, vocabulary, (rows, width), generator=torch.Generator().manual_seed(0))
        labels = torch.arange(rows) % 2
        batch = {"input_ids": ids * mask, "attention_mask": mask.long(), "labels": labels}
        return {name: value.to(device) for name, value in batch.items()}

    return padded(int(chosen.max())), padded(args.max_seq_length)


def read(args: argparse.Namespace) -> Any:
    from prumux import PrumuxConfig

    return PrumuxConfig.from_pretrained(args.config, num_instances=args.num_instances, num_labels=2)


class Ours:
    """The package's own step, as its Trainer runs it."""

    def __init__(self, args: argparse.Namespace, device: Any, autocast: bool = True) -> None:
        import torch

        from prumux import L0Gates
        from prumux.pruning.distillation import LayerMap
        from prumux.training.distilled import Distilled

        torch.manual_seed(0)
        self.device, self.autocast = device, autocast
        self.teacher = self.build(args).eval().requires_grad_(False).to(device)
        student = self.student(args)
        student.bert.embeddings.requires_grad_(False)
        config = student.config
        layer_map = LayerMap(config.kept_hidden, config.hidden_size, config.dense_hidden_size)
        self.gates = self.make_gates(L0Gates, config)
        self.model = Distilled(student, layer_map, self.gates).train().to(device)
        self.weights = [p for p in (*student.parameters(), *layer_map.parameters()) if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": self.weights}]
        if self.gates is not None:
            groups.append({"params": list(self.gates.log_alpha.values()), "lr": 0.05, "weight_decay": 0.0})
            groups.append(
                {"params": list(self.gates.multipliers()), "lr": 0.05, "weight_decay": 0.0, "maximize": True}
            )
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)

    def build(self, args: argparse.Namespace) -> Any:
        from prumux import PrumuxForSequenceClassification

        return PrumuxForSequenceClassification(read(args))

    def student(self, args: argparse.Namespace) -> Any:
        return copy.deepcopy(self.teacher).requires_grad_(True)

    def make_gates(self, gates: Any, config: Any) -> Any:
        return gates(config)

    def bind(self, batch: dict[str, Any]) -> Callable[[], Any]:
        return lambda: self.step(batch)

    def step(self, batch: dict[str, Any]) -> Any:
        import torch

        if self.gates is not None:
            self.gates.clamp_()
        features = {name: value for name, value in batch.items() if name != "labels"}
        reduced = (
            torch.autocast(self.device.type, torch.bfloat16) if self.autocast else contextlib.nullcontext()
        )
        with reduced:
            with torch.no_grad():
                taught = self.teacher(**features, output_hidden_states=True)
            terms = self.model(
                batch, taught, pruning=self.gates is not None, target=0.5, version=4, temperature=2.0,
                layer_alpha=0.9, ce_alpha=0.1,
            )  # fmt: skip
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return terms["loss"].detach()


class Finetuning(Ours):
    """The step after pruning: the student is the compacted model."""

    def student(self, args: argparse.Namespace) -> Any:
        from prumux import L0Gates, compact
        from prumux.pruning.snapping import evaluation_masks

        dense = super().student(args)
        masks, _ = evaluation_masks(L0Gates(dense.config), args.sparsity, 0.01)
        return compact(dense, masks)

    def make_gates(self, gates: Any, config: Any) -> Any:
        return None


class Plain(Ours):
    """The same step, done as the authors' code does it."""

    def __init__(self, args: argparse.Namespace, device: Any) -> None:
        import torch

        super().__init__(args, device, autocast=False)
        self.optimizers = [
            torch.optim.AdamW(
                group["params"], lr=group["lr"], foreach=False, maximize=group.get("maximize", False)
            )
            for group in self.optimizer.param_groups
        ]

    def build(self, args: argparse.Namespace) -> Any:
        from prumux import PrumuxForSequenceClassification

        config = read(args)
        config.attend_padding, config.retrieval_loss_coeff = (
            True,
            0.1,
        )  # which gives the model a vocabulary head
        return PrumuxForSequenceClassification(config)

    def vocabulary(self, model: Any, output: Any) -> Any:
        """The retrieval predictions at every position, which nothing reads."""
        import torch

        hidden = output.hidden_states[-1]
        drawn = torch.randint(model.config.num_instances, hidden.shape[:2], device=hidden.device)
        separated = model.bert.demultiplexer(hidden, None)  # (G, N, L, D)
        chosen = separated.gather(1, drawn[:, None, :, None].expand(-1, 1, -1, separated.shape[-1]))
        return model.lm_head.scores(chosen)

    def step(self, batch: dict[str, Any]) -> Any:
        import torch

        from prumux.pruning.distillation import align, logit_distillation_loss, teacher_layers

        assert self.gates is not None
        student, gates, map_ = self.model.student, self.gates, self.model.layer_map
        features = {name: value for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            taught = self.teacher(**features, output_hidden_states=True)
            self.vocabulary(self.teacher, taught)
        masks = gates.sample()
        lagrangian, _ = gates.penalty(0.5)
        output = student(**features, masks=masks, output_hidden_states=True)
        self.vocabulary(student, output)
        outputs, targets = output.hidden_states[1:], taught.hidden_states[1:]
        layers = teacher_layers(4, len(targets))
        mapped = [map_(hidden) for hidden in outputs]
        pairs = [[torch.nn.functional.mse_loss(m, targets[t]) for m in mapped] for t in layers]
        distances = torch.stack([torch.stack([pair.detach() for pair in row]) for row in pairs])
        matched = align(4, distances.cpu(), layers, [True] * len(outputs))
        layer_loss = torch.stack([pairs[i][m] for i, m in enumerate(matched) if m is not None]).sum()
        loss = (
            0.1 * logit_distillation_loss(output.logits, taught.logits, 2.0) + 0.9 * layer_loss + lagrangian
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        gates.clamp_()
        return loss.detach()


if __name__ == "__main__":
    arguments = parse()
    from prumux.errors import guard

    guard(lambda: main(arguments))
