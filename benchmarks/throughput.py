"""Throughput of the engine beside other runtimes, all in one run: python benchmarks/throughput.py --help.

Every row is a runner: a model of one shape in one runtime and dtype. Runners take turns (A B C, A B C ...) on the same
random inputs; a row is the median over the repeats. `cpu_time` counts the processor time of one thread, which other
programs on the machine disturb least; `wall` is the clock, with all threads, and is measured after it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtimes import Runner

CHAINED = 32  # operations on an element in the measurement of the vector peak


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--num_instances", type=int, nargs="+", default=[10], metavar="N", help="default 10")
    add(
        "--sparsity",
        type=float,
        nargs="+",
        default=[0.95],
        metavar="S",
        help="0, 0.6, 0.8, 0.9, 0.95 (default)",
    )
    add(
        "--dense",
        metavar="JSON",
        help="the dense model to compare with (default configs/models/bert_base.json)",
    )
    add(
        "--structure", metavar="JSON", help="a configuration in place of configs/structures/bert_base_sS.json"
    )
    add(
        "--model",
        nargs="+",
        metavar="FOLDER",
        help="trained models in place of structures with random weights",
    )
    add(
        "--dtype",
        nargs="+",
        choices=["float32", "bfloat16", "float16", "int8"],
        default=["float32", "bfloat16"],
    )
    add("--device", choices=["cpu", "cuda"], help="default cuda if there is one")
    add("--engine", choices=["fast", "eager"], default="fast", help="eager: the plain model")
    add(
        "--against",
        default="hf,openvino",
        help="of hf,openvino,onnxruntime,minilm,tinybert (default hf,openvino)",
    )
    add("--protocol", choices=["cpu_time", "wall"], help="default cpu_time on a CPU, wall on a GPU")
    add("--no_wall", action="store_true", help="leave out the clock's time with all threads")
    add("--length", type=int, default=128, help="tokens (default 128)")
    add("--batch", type=int, default=128, help="groups in a batch, rows / N (default 128)")
    add("--repeats", type=int, default=5, help="default 5")
    add("--seconds", type=float, default=1.0, help="a timing lasts at least so long (default 1)")
    add("--json", metavar="PATH", help="write the rows")
    args = parser.parse_args()
    for name in ("length", "batch", "repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}: give 1 or more")
    if min(args.num_instances) < 1:
        parser.error(f"--num_instances is {min(args.num_instances)}: give 1 or more")
    if args.structure and len(args.sparsity) > 1:
        parser.error("--structure is one structure: give several --sparsity, or it")
    return args


def main(args: argparse.Namespace) -> None:
    from prumux.inference.hardware import resolve_device
    from prumux.reports.provenance import provenance, write_json

    device = resolve_device(args.device)
    check(args)
    protocol = args.protocol or ("cpu_time" if device.type == "cpu" else "wall")
    cores = os.cpu_count() or 1
    threads = 1 if protocol == "cpu_time" else cores
    runners, peaks = measure(args, device, protocol, threads)
    rows = [row(runner, args, peaks, str(device), threads) for runner in runners]
    for item in rows:
        item["ratios"] = ratios(item, rows)
    print(table(rows))
    goals = goal_table(rows)
    print(f"\n{goals}" if goals else "")
    print(
        f"\n{protocol}, {threads} thread(s), {args.length} tokens; peaks: "
        + "; ".join(f"{dtype} {p['matrix'] / 1e9:,.0f} GFLOP/s" for dtype, p in peaks.items())
    )
    if protocol == "cpu_time" and not args.no_wall:
        for item, runner in zip(rows, measure(args, device, "wall", cores)[0], strict=True):
            item["wall"] = {
                "threads": cores,
                "examples_per_second": statistics.median(runner.speeds),
                "examples_per_second_min": min(runner.speeds),
                "examples_per_second_max": max(runner.speeds),
            }
        print(f"\nthe clock, {cores} thread(s):\n{wall_table(rows)}")
    if args.json:
        report = {"rows": rows, "protocol": protocol, "peaks": peaks, "provenance": provenance(0)}
        print(f"written: {write_json(args.json, report)}")


def check(args: argparse.Namespace) -> None:
    """Refuse before hours of measuring what would fail after them."""
    from runtimes import Bench

    from prumux.errors import UserError

    bench = Bench(args, None, 1)
    configs = [bench.dense_config()]
    if not args.model:
        configs += [bench.structure(sparsity) for sparsity in args.sparsity]
    shortest = min(config.max_position_embeddings for config in configs)
    if args.length > shortest:
        raise UserError(
            f"--length is {args.length}, but the models have {shortest} positions: give fewer tokens"
        )
    if args.json:
        folder = Path(args.json).absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise UserError(f"can't write {args.json}: {folder} is no folder that can be written")


def measure(
    args: argparse.Namespace, device: Any, protocol: str, threads: int
) -> tuple[list[Runner], dict[str, dict[str, float]]]:
    """Build every runner for so many threads and let them take turns; gives them and the machine's peaks."""
    import torch
    from runtimes import Bench

    torch.set_num_threads(threads)
    clock = time.process_time if protocol == "cpu_time" else time.perf_counter
    runners = Bench(args, device, threads).runners()
    peaks = measured_peaks(args.dtype, device, clock)
    for runner in runners:
        timed(runner, clock, device)  # warm-up
        runner.passes = max(1, round(args.seconds / timed(runner, clock, device)))
    for _ in range(args.repeats):
        for runner in runners:
            seconds = timed(runner, clock, device, runner.passes)
            runner.speeds.append(runner.rows * runner.passes / seconds)
    return runners, peaks


def timed(runner: Runner, clock: Callable[[], float], device: Any, passes: int = 1) -> float:
    """Seconds of so many passes."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(passes):
        runner.run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def _chain(x: Any) -> Any:
    """Multiplications and additions that can't be joined into fewer."""
    for i in range(CHAINED):
        x = x * 0.999 + 0.001 * i
    return x


def measured_peaks(dtypes: list[str], device: Any, clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """The best speed of a matrix product, a vector operation and a copy that this machine shows, per dtype.

    The product is a frozen, compiled linear layer of BERT's FFN (for int8 the bare product), the best of both
    directions: what the engine runs on.
    """
    import torch
    from runtimes import Runner

    def best(run: Callable[[], Any], amount: float) -> float:
        runner = Runner("", "", "", 1, 0, None, 1, run)
        timed(runner, clock, device, 3)
        return max(amount * 5 / timed(runner, clock, device, 5) for _ in range(12))

    rows = 1024 if device.type == "cpu" else 16384
    peaks = {}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's remarks on itself
        for dtype in dtypes:
            products = []
            for narrow, wide in ((768, 3072), (3072, 768)):
                if dtype == "int8":
                    x, weight = (torch.ones(s, dtype=torch.int8) for s in ((rows, narrow), (narrow, wide)))
                    run = lambda x=x, weight=weight: torch._int_mm(x, weight)  # noqa: E731
                else:
                    linear = torch.nn.Linear(narrow, wide).to(device, getattr(torch, dtype)).eval()
                    product = torch.compile(linear, dynamic=False, options={"freezing": True})
                    x = torch.randn(rows, narrow, device=device, dtype=getattr(torch, dtype))
                    run = lambda product=product, x=x: product(x)  # noqa: E731
                products.append(best(run, 2.0 * rows * narrow * wide))
            vector = torch.rand(1 << (14 if device.type == "cpu" else 24), device=device)
            block, copy_of = (torch.ones(1 << 26, dtype=torch.uint8, device=device) for _ in "ab")
            chain = torch.compile(_chain, dynamic=False)
            peaks[dtype] = {
                "matrix": max(products),
                "vector": best(lambda run=chain, v=vector: run(v), 2.0 * CHAINED * len(vector)),
                "bandwidth": best(lambda a=block, b=copy_of: b.copy_(a), 2.0 * len(block)),
            }
    return peaks


def row(
    runner: Runner, args: argparse.Namespace, peaks: dict[str, dict[str, float]], device: str, threads: int
) -> dict[str, Any]:
    from prumux.inference.cost import cost

    speed = statistics.median(runner.speeds)
    share = None
    if runner.dtype in peaks:
        peak = peaks[runner.dtype]
        counted = cost(
            runner.config,
            length=args.length,
            bytes_per_number=4 if runner.dtype == "float32" else 2,
            num_labels=3,
        )
        share = counted.seconds(peak["matrix"], peak["vector"], peak["bandwidth"]) * speed
    return {
        "name": runner.name,
        "num_instances": runner.num_instances,
        "sparsity": runner.sparsity,
        "dtype": runner.dtype,
        "engine": runner.engine,
        "device": runner.device or device,
        "threads": threads,
        "batch": runner.rows,
        "length": args.length,
        "examples_per_second": speed,
        "examples_per_second_min": min(runner.speeds),
        "examples_per_second_max": max(runner.speeds),
        "max_logit_diff": runner.difference,
        "share_of_limit": share,
        **({"peak_memory_mib": runner.peak} if runner.peak else {}),
    }


def ratios(item: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, float]:
    """Speed over every dense row, and over the fastest dense BERT-base of the same dtype."""
    from runtimes import SHAPES

    dense = [r for r in rows if r["name"] in ("dense", *SHAPES)]
    found = {}
    for other in dense:
        prefix = "" if other["name"] == "dense" else f"{other['name']}_"
        found[f"{prefix}{other['engine']}_{other['dtype']}"] = other["examples_per_second"]
    same = [r["examples_per_second"] for r in dense if r["dtype"] == item["dtype"] and r["name"] == "dense"]
    if same:
        found["best_dense_same_dtype"] = max(same)
    return {name: item["examples_per_second"] / speed for name, speed in found.items()}


def table(rows: list[dict[str, Any]]) -> str:
    names = sorted({name for item in rows for name in item["ratios"]})
    names = [name for name in ("best_dense_same_dtype", *names) if name in names]
    names = list(dict.fromkeys(names))
    head = [
        "model",
        "engine",
        "dtype",
        "examples/s",
        "spread",
        "logit diff",
        "of limit",
        *(f"x {n}" for n in names),
    ]
    lines = [" | ".join(head), " | ".join("-" * len(name) for name in head)]
    for item in rows:
        share, difference = item["share_of_limit"], item["max_logit_diff"]
        cells = [
            item["name"],
            item["engine"],
            item["dtype"],
            f"{item['examples_per_second']:,.1f}",
            f"{item['examples_per_second_min']:,.1f}-{item['examples_per_second_max']:,.1f}",
            "" if difference is None else f"{difference:.1e}",
            "" if share is None else f"{share:.0%}",
            *(f"{item['ratios'].get(name, float('nan')):.2f}" for name in names),
        ]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


# What the engine is built for: the measured row, the dense one beside it, the least and the hoped-for ratio.
GOALS: list[tuple[tuple[int, float, str], str, float, float]] = [
    ((10, 0.95, "bfloat16"), "best_dense_same_dtype", 120, 180),
    ((2, 0.90, "bfloat16"), "best_dense_same_dtype", 15, 19),
    ((10, 0.95, "float32"), "hf_float32", 150, 200),
    ((10, 0.95, "int8"), "fast_int8", 110, 150),
]
GOAL_SHARE = (0.75, 0.9)  # of N / (1 - s), over the best dense model of the same dtype


def goal_table(rows: list[dict[str, Any]]) -> str:
    """The goals that this run's rows speak of, beside what was measured."""
    ours = [r for r in rows if r["engine"] == "fast" and r["name"].startswith("N=")]
    lines = []
    for (instances, sparsity, dtype), beside, least, hoped in GOALS:
        found = [
            r for r in ours if (r["num_instances"], r["sparsity"], r["dtype"]) == (instances, sparsity, dtype)
        ]
        if found and beside in found[0]["ratios"]:
            name = f"N={instances} s={sparsity:.2f} {dtype} over {beside}"
            lines.append(f"| {name} | {found[0]['ratios'][beside]:.1f} | {least} | {hoped} |")
    for dtype in sorted({r["dtype"] for r in ours}):
        same = [r for r in ours if r["dtype"] == dtype and "best_dense_same_dtype" in r["ratios"]]
        shares = [
            r["ratios"]["best_dense_same_dtype"] * (1 - r["sparsity"]) / r["num_instances"] for r in same
        ]
        if len(shares) > 1:
            lines.append(
                f"| least share of N/(1-s) over {len(shares)} points, {dtype} | {min(shares):.2f} | {GOAL_SHARE[0]} | "
                f"{GOAL_SHARE[1]} |"
            )
    return (
        "\n".join(["| goal | measured | at least | hoped for |", "| - | - | - | - |", *lines])
        if lines
        else ""
    )


def wall_table(rows: list[dict[str, Any]]) -> str:
    """The speeds by the clock beside those of the main protocol."""
    head = ["model", "engine", "dtype", "examples/s", "spread", "times one thread's"]
    lines = [" | ".join(head), " | ".join("-" * len(name) for name in head)]
    for item in rows:
        wall = item["wall"]
        cells = [
            item["name"],
            item["engine"],
            item["dtype"],
            f"{wall['examples_per_second']:,.1f}",
            f"{wall['examples_per_second_min']:,.1f}-{wall['examples_per_second_max']:,.1f}",
            f"{wall['examples_per_second'] / item['examples_per_second']:.2f}",
        ]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    arguments = parse()
    from prumux.errors import guard

    guard(lambda: main(arguments))
