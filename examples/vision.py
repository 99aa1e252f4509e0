"""Data multiplexing of images: an MLP and a CNN that classify N images in one pass, accuracy over N.

    python examples/vision.py                    # scikit-learn's digits, minutes on two cores, nothing downloaded
    python examples/vision.py --dataset mnist    # needs torchvision

After DataMUX (Murahari et al. 2022, section 5): the pixels of an image go through the multiplexer that mixes tokens in
the text models, the mixture through an ordinary network, its last features through the demultiplexer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from prumux.errors import UserError, guard
from prumux.models.demultiplexers import DEMULTIPLEXERS, IndexPos
from prumux.models.multiplexers import MULTIPLEXERS
from prumux.reports.provenance import provenance, write_json

NETWORKS = ("mlp", "cnn")


class MultiplexedClassifier(nn.Module):
    """Images [G * N, side, side] -> logits [G * N, classes], N consecutive images in one pass."""

    def __init__(
        self, network: str, side: int, classes: int, args: argparse.Namespace, num_instances: int
    ) -> None:
        super().__init__()
        self.num_instances, self.side, width = num_instances, side, args.hidden_size
        if network == "mlp":
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(side * side, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
            )
        else:
            self.body = nn.Sequential(
                nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
                nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * (side // 2) ** 2, width), nn.ReLU(),
            )  # fmt: skip
        self.multiplexer = self.demultiplexer = None
        if num_instances > 1:
            self.multiplexer = MULTIPLEXERS[args.muxing_variant](
                num_instances=num_instances,
                hidden_size=side * side,
                norm=side,
                epsilon=0.3,
                learned=args.learn_muxing,
            )
            self.multiplexer.vectors.data.copy_(self.multiplexer.initial_vectors())
            self.demultiplexer = DEMULTIPLEXERS[args.demuxing_variant](
                num_instances=num_instances, input_size=width, output_size=width, num_layers=3, activation="gelu",
                dropout=0.0, layer_norm_eps=1e-12,
            )  # fmt: skip
            if isinstance(self.demultiplexer, IndexPos):
                nn.init.normal_(self.demultiplexer.keys)
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        if self.multiplexer is None or self.demultiplexer is None:
            return self.classifier(self.body(images[:, None]))
        pixels = images.flatten(1).unflatten(0, (-1, self.num_instances)).unsqueeze(2)  # (G, N, 1, pixels)
        mixture = self.multiplexer(pixels)  # (G, 1, pixels)
        features = self.body(mixture.unflatten(-1, (self.side, self.side)))  # (G, width)
        separated = self.demultiplexer(features.unsqueeze(1), None)  # (G, N, 1, width)
        return self.classifier(separated.flatten(0, 2))


def load(name: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train images [rows, side, side] of mean 0, train labels, test images, test labels."""
    if name == "digits":
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        parts = train_test_split(
            images.reshape(-1, 8, 8), labels, test_size=0.2, random_state=seed, stratify=labels
        )
        x, y, labels_x, labels_y = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
    else:
        try:
            from torchvision.datasets import MNIST
        except ImportError:
            raise UserError(
                "mnist needs torchvision: pip install torchvision, or leave --dataset out"
            ) from None
        train, test = (MNIST("data", train=part, download=True) for part in (True, False))
        x, y, labels_x, labels_y = (
            train.data[:, 4:-4, 4:-4],
            test.data[:, 4:-4, 4:-4],
            train.targets,
            test.targets,
        )
    x, y = x.float(), y.float()
    mean, scale = x.mean(), x.std()
    return (x - mean) / scale, labels_x.long(), (y - mean) / scale, labels_y.long()


def train(
    model: MultiplexedClassifier, x: Tensor, labels: Tensor, args: argparse.Namespace, title: str
) -> None:
    """Adam on groups of random images, new ones in every epoch."""
    generator = torch.Generator().manual_seed(args.seed)
    rows = args.batch_size * model.num_instances  # groups as many as without multiplexing
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    steps = args.steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, total_steps=steps)
    model.train()
    for _ in tqdm(range(steps), desc=title, unit="step", leave=False, disable=None):
        chosen = torch.randint(len(x), (rows,), generator=generator)
        loss = nn.functional.cross_entropy(model(x[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def accuracy(model: MultiplexedClassifier, x: Tensor, labels: Tensor) -> float:
    """Share of right answers; the last group is filled with its own images, which don't count."""
    model.eval()
    missing = -len(x) % model.num_instances
    filled = torch.cat([x, x[torch.arange(missing) % len(x)]])
    return (model(filled)[: len(x)].argmax(-1) == labels).float().mean().item()


def plot(rows: list[dict], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for network, marker, line in zip(NETWORKS, "os", ("-", "--"), strict=True):
        points = [row for row in rows if row["network"] == network]
        axes.errorbar(
            [row["num_instances"] for row in points], [100 * row["accuracy"] for row in points],
            [100 * row["accuracy_std"] for row in points], marker=marker, linestyle=line,
            label=network.upper(), capsize=3,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    sizes = sorted({row["num_instances"] for row in rows})
    axes.set_xticks(sizes, map(str, sizes))
    axes.set_xlabel("images in one pass, N")
    axes.set_ylabel("accuracy, %")
    axes.legend()
    figure.savefig(file, dpi=150)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", choices=["digits", "mnist"], default="digits")
    add("--num_instances", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    fitting = [
        name for name in MULTIPLEXERS if name != "gaussian_attention_v2"
    ]  # that one is of Transformer layers
    add("--muxing_variant", choices=fitting, default="random_ortho")
    add("--demuxing_variant", choices=["index_pos", "mlp"], default="mlp")
    add("--learn_muxing", action="store_true", help="train the multiplexer too")
    add("--hidden_size", type=int, default=256, help="width of the features (default 256)")
    add("--steps", type=int, default=2000, help="default 2000")
    add("--batch_size", type=int, default=32, help="groups in a batch (default 32)")
    add("--learning_rate", type=float, default=2e-3, help="default 0.002")
    add("--repeats", type=int, default=3, help="seeds over which accuracy is averaged (default 3)")
    add("--seed", type=int, default=57, help="default 57")
    add("--output_dir", default="out/vision", help="default out/vision")
    args = parser.parse_args()
    if min(*args.num_instances, args.steps, args.batch_size, args.repeats, args.hidden_size) < 1:
        parser.exit(
            2, "error: num_instances, steps, batch_size, repeats and hidden_size must be at least 1\n"
        )
    if not 0 < args.learning_rate < float("inf") or not 0 <= args.seed < 2**32 - args.repeats:
        parser.exit(2, "error: learning_rate must be a number above 0 and seed a whole number from 0 on\n")
    return args


def main(args: argparse.Namespace) -> None:
    folder = Path(args.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"can't write to '{folder}' ({error.strerror}): choose another --output_dir"
        ) from None
    rows = []
    print("| network | N | accuracy |\n|---|--:|--:|")
    for network in NETWORKS:
        for num_instances in args.num_instances:
            found = []
            for seed in range(args.seed, args.seed + args.repeats):
                torch.manual_seed(seed)
                x, labels, test, test_labels = load(args.dataset, seed)
                try:
                    model = MultiplexedClassifier(
                        network, x.shape[-1], int(labels.max()) + 1, args, num_instances
                    )
                except ValueError as error:
                    raise UserError(str(error)) from None
                train(model, x, labels, args, f"{network} N={num_instances}")
                found.append(accuracy(model, test, test_labels))
            mean, spread = float(np.mean(found)), float(np.std(found))
            rows.append(
                {"network": network, "num_instances": num_instances, "accuracy": mean, "accuracy_std": spread}
            )
            print(f"| {network} | {num_instances} | {mean:.3f} ± {spread:.3f} |", flush=True)
    plot(rows, folder / "accuracy.png")
    report = {"rows": rows, "settings": vars(args), "provenance": provenance(args.seed)}
    print(f"written: {write_json(folder / 'vision.json', report)}, {folder / 'accuracy.png'}")


if __name__ == "__main__":
    arguments = parse()
    guard(lambda: main(arguments))
