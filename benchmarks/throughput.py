"""Throughput of the engine beside other runtimes, all in one run: python benchmarks/throughput.py --help.

Every row is a runner: a model of one shape in one runtime and dtype. Runners take turns (A B C, A B C ...) on the same
random inputs; a row is the median over the repeats. `cpu_time` counts the processor time of one thread, which other
programs on the machine disturb least; `wall` is the clock, with all threads.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
STRUCTURES = PROJECT / "configs" / "structures"
SHAPES = {  # what users compare with, beside BERT-base
    "minilm": {"num_hidden_layers": 6, "hidden_size": 384, "intermediate_size": 1536},
    "tinybert": {"num_hidden_layers": 4, "hidden_size": 312, "intermediate_size": 1200},
}
CHAINED = 32  # operations on an element in the measurement of the vector peak
DENSE_ROWS = 16  # of a dense model in one pass: enough for its best speed, and short


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
    add("--model", metavar="FOLDER", help="a trained model in place of a structure with random weights")
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
    add("--length", type=int, default=128, help="tokens (default 128)")
    add("--batch", type=int, default=128, help="groups in a batch, rows / N (default 128)")
    add("--repeats", type=int, default=5, help="default 5")
    add("--seconds", type=float, default=1.0, help="a timing lasts at least so long (default 1)")
    add("--json", metavar="PATH", help="write the rows")
    return parser.parse_args()


@dataclass
class Runner:
    """One row: ``run()`` passes ``rows`` rows through ``name``."""

    name: str
    engine: str
    dtype: str
    num_instances: int
    sparsity: float
    config: Any
    rows: int
    run: Callable[[], Any]
    difference: float | None = None
    passes: int = 1
    speeds: list[float] = field(default_factory=list)
    peak: float = 0.0


def main(args: argparse.Namespace) -> None:
    import torch

    from prumux.inference.hardware import resolve_device
    from prumux.reports.provenance import provenance, write_json

    device = resolve_device(args.device)
    protocol = args.protocol or ("cpu_time" if device.type == "cpu" else "wall")
    threads = 1 if protocol == "cpu_time" else (os.cpu_count() or 1)
    torch.set_num_threads(threads)
    bench = Bench(args, device, threads)
    clock = time.process_time if protocol == "cpu_time" else time.perf_counter
    runners = bench.runners()
    if not runners:
        raise SystemExit("error: nothing to measure")
    peaks = measured_peaks(args.dtype, device, clock)
    for runner in runners:
        timed(runner, clock, device)  # warm-up
        runner.passes = max(1, round(args.seconds / timed(runner, clock, device)))
    for _ in range(args.repeats):
        for runner in runners:
            seconds = timed(runner, clock, device, runner.passes)
            runner.speeds.append(runner.rows * runner.passes / seconds)
    rows = [row(runner, args, peaks, str(device), threads) for runner in runners]
    for item in rows:
        item["ratios"] = ratios(item, rows)
    print(table(rows))
    print(
        f"\n{protocol}, {threads} thread(s), {args.length} tokens; peaks: "
        + "; ".join(f"{dtype} {p['matrix'] / 1e9:,.0f} GFLOP/s" for dtype, p in peaks.items())
    )
    if args.json:
        report = {"rows": rows, "protocol": protocol, "peaks": peaks, "provenance": provenance(0)}
        print(f"written: {write_json(args.json, report)}")


class Bench:
    """Builds the runners."""

    def __init__(self, args: argparse.Namespace, device: Any, threads: int) -> None:
        self.args, self.device, self.threads = args, device, threads
        self.against = [name for name in args.against.split(",") if name]
        unknown = set(self.against) - {"hf", "openvino", "onnxruntime", *SHAPES}
        if unknown:
            raise SystemExit(
                f"error: unknown --against {unknown.pop()}: hf, openvino, onnxruntime, minilm, tinybert"
            )

    def runners(self) -> list[Runner]:
        found: list[Runner] = []
        dense = self.dense_config()
        for dtype in self.args.dtype:
            found.append(self.ours(self.model(dense), 0.0, dtype, "dense"))
        for name in ("hf", "openvino", "onnxruntime"):
            if name in self.against:
                found += self.other(name, dense, "dense")
        for shape, sizes in SHAPES.items():
            if shape in self.against:
                small = copy.deepcopy(dense)
                for key, value in sizes.items():
                    setattr(small, key, value)
                small.dense_hidden_size, small.head_dim = small.hidden_size, small.hidden_size // 12
                for dtype in self.args.dtype:
                    found.append(self.ours(self.model(small), 0.0, dtype, shape))
                if "openvino" in self.against:
                    found += self.other("openvino", small, shape)
        if self.args.model:
            from prumux.evaluation.load import load_model

            model = load_model(self.args.model).model
            for dtype in self.args.dtype:
                found.append(self.ours(model, None, dtype, "trained"))
            return found
        for instances in self.args.num_instances:
            for sparsity in self.args.sparsity:
                if (instances, sparsity) == (1, 0.0):
                    continue
                config = self.structure(sparsity)
                config.num_instances = instances
                model = self.model(config)
                for dtype in self.args.dtype:
                    found.append(self.ours(model, sparsity, dtype, f"N={instances} s={sparsity:g}"))
        return found

    def other(self, runtime: str, config: Any, name: str) -> list[Runner]:
        """The rows of another runtime; none, and a line that says why, where it fails."""
        try:
            return getattr(self, runtime)(config, name)
        except Exception as error:  # every runtime has kinds of its own
            print(f"{runtime} is left out for {name}: {str(error).strip().splitlines()[0]}", file=sys.stderr)
            return []

    # ---- models

    def dense_config(self) -> Any:
        return self.read(Path(self.args.dense or PROJECT / "configs" / "models" / "bert_base.json"))

    def structure(self, sparsity: float) -> Any:
        if self.args.structure:
            return self.read(Path(self.args.structure))
        if sparsity == 0:
            return self.dense_config()
        file = STRUCTURES / f"bert_base_s{sparsity:.2f}.json"
        if not file.is_file():
            there = ", ".join(sorted(path.stem.rpartition("s")[2] for path in STRUCTURES.glob("*.json")))
            raise SystemExit(
                f"error: no structure of sparsity {sparsity}: there are {there}; or name a --structure"
            )
        return self.read(file)

    def read(self, file: Path) -> Any:
        from prumux import PrumuxConfig

        return PrumuxConfig(**json.loads(file.read_text()), num_labels=3)

    def model(self, config: Any) -> Any:
        import torch

        from prumux import PrumuxForSequenceClassification

        torch.manual_seed(0)
        return PrumuxForSequenceClassification(config).eval()

    def ids(self, vocabulary: int, rows: int) -> Any:
        import torch

        generator = torch.Generator().manual_seed(0)
        return torch.randint(vocabulary, (rows, self.args.length), generator=generator)

    # ---- runtimes

    def ours(self, model: Any, sparsity: float | None, dtype: str, name: str) -> Runner:
        import torch

        from prumux import compile_for_inference
        from prumux.pruning.accounting import model_size

        config = model.config
        dense = config.num_instances == 1 and not config.is_pruned and self.device.type == "cpu"
        rows = DENSE_ROWS if dense else self.args.batch * config.num_instances
        ids = self.ids(config.vocab_size, rows).to(self.device)
        with torch.no_grad():
            few = ids[: 4 * config.num_instances].cpu()
            reference = model(few).logits
        if self.args.engine == "fast":
            engine = compile_for_inference(model, dtype, self.device)
        else:
            plain = copy.deepcopy(model).to(self.device, getattr(torch, dtype))

            def engine(batch: Any) -> Any:
                with torch.inference_mode():
                    return plain(batch).logits

        difference = (engine(few.to(self.device)).float().cpu() - reference).abs().max().item()
        if sparsity is None:
            sparsity = model_size(model).sparsity
        runner = Runner(
            name,
            self.args.engine,
            dtype,
            config.num_instances,
            sparsity,
            config,
            rows,
            lambda: engine(ids),
            difference,
        )
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            engine(ids)
            runner.peak = torch.cuda.max_memory_allocated() / 2**20
        return runner

    def hf(self, config: Any, name: str) -> list[Runner]:
        """Hugging Face's BertForSequenceClassification as it is."""
        import torch

        base, reference, ids = self.transformer(config)
        found = []
        for dtype in [name for name in self.args.dtype if name != "int8"]:
            model = copy.deepcopy(base).to(self.device, getattr(torch, dtype))
            batch = ids.to(self.device)

            def run(model: Any = model, batch: Any = batch) -> Any:
                with torch.inference_mode():
                    return model(batch).logits

            difference = (run().float().cpu() - reference).abs().max().item()
            found.append(Runner(name, "hf", dtype, 1, 0.0, config, len(ids), run, difference))
        return found

    def transformer(self, config: Any) -> tuple[Any, Any, Any]:
        """The dense model in Hugging Face's class, its logits and its inputs."""
        import torch
        from transformers import BertConfig, BertForSequenceClassification

        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        torch.manual_seed(0)
        model = BertForSequenceClassification(
            BertConfig(**{name: getattr(config, name) for name in names}, num_labels=3)
        ).eval()
        ids = self.ids(config.vocab_size, DENSE_ROWS if self.device.type == "cpu" else self.args.batch)
        with torch.no_grad():
            return model, model(ids).logits, ids

    def openvino(self, config: Any, name: str) -> list[Runner]:
        """OpenVINO, in float32 and (where asked for) bfloat16."""
        try:
            import openvino
        except ImportError:
            print("openvino is not installed (pip install -e '.[benchmark]'): left out", file=sys.stderr)
            return []
        import torch

        model, reference, ids = self.transformer(config)
        file = self.exported(model, ids)
        found = []
        for dtype in [name for name in self.args.dtype if name != "int8"]:
            hint = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype]
            options = {
                "INFERENCE_PRECISION_HINT": hint,
                "INFERENCE_NUM_THREADS": self.threads,
                "PERFORMANCE_HINT": "THROUGHPUT",
                "NUM_STREAMS": "1",
            }
            compiled = openvino.Core().compile_model(file, "CPU", options)
            request = compiled.create_infer_request()
            inputs = [ids.numpy()]

            def run(request: Any = request, inputs: Any = inputs) -> Any:
                return request.infer(inputs)

            logits = torch.from_numpy(next(iter(run().values())).copy())
            difference = (logits - reference).abs().max().item()
            found.append(Runner(name, "openvino", dtype, 1, 0.0, config, len(ids), run, difference))
        return found

    def onnxruntime(self, config: Any, name: str) -> list[Runner]:
        """ONNX Runtime in float32, and with its dynamic int8 quantisation."""
        try:
            import onnx
            import onnxruntime
            from onnxruntime.quantization import QuantType, quantize_dynamic
        except ImportError:
            print("onnxruntime is not installed (pip install -e '.[benchmark]'): left out", file=sys.stderr)
            return []
        import torch

        model, reference, ids = self.transformer(config)
        file = self.exported(model, ids)
        exported = onnx.load(file)
        del exported.graph.value_info[:]  # the quantiser infers them anew, and stumbles over the exporter's
        onnx.save(exported, file)
        small = file.replace(".onnx", ".int8.onnx")
        quantize_dynamic(file, small, weight_type=QuantType.QInt8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        found = []
        for dtype, path in (("float32", file), ("int8", small)):
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            inputs = {session.get_inputs()[0].name: ids.numpy()}

            def run(session: Any = session, inputs: Any = inputs) -> Any:
                return session.run(None, inputs)

            difference = (torch.from_numpy(run()[0]) - reference).abs().max().item()
            found.append(Runner(name, "onnxruntime", dtype, 1, 0.0, config, len(ids), run, difference))
        return found

    def exported(self, model: Any, ids: Any) -> str:
        """The model as an ONNX file in a temporary folder that lives as long as this benchmark."""
        import tempfile

        import torch

        self._folders = [*getattr(self, "_folders", []), tempfile.TemporaryDirectory()]
        file = str(Path(self._folders[-1].name) / "model.onnx")

        class Logits(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, input_ids: Any) -> Any:
                return self.model(input_ids).logits

        torch.onnx.export(
            Logits().eval(),
            (ids,),
            file,
            input_names=["input_ids"],
            dynamo=True,
            verbose=False,
            external_data=False,
        )
        return file


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

    The product is a frozen, compiled linear layer of BERT's FFN, the best of both directions: what the engine runs on.
    """
    import torch

    def best(run: Callable[[], Any], amount: float) -> float:
        runner = Runner("", "", "", 1, 0, None, 1, run)
        timed(runner, clock, device, 3)
        return max(amount * 5 / timed(runner, clock, device, 5) for _ in range(12))

    rows = 1024 if device.type == "cpu" else 16384
    peaks = {}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's remarks on itself
        for dtype in [name for name in dtypes if name != "int8"]:
            kind, products = getattr(torch, dtype), []
            for narrow, wide in ((768, 3072), (3072, 768)):
                linear = torch.nn.Linear(narrow, wide).to(device, kind).eval()
                product = torch.compile(linear, dynamic=False, options={"freezing": True})
                x = torch.randn(rows, narrow, device=device, dtype=kind)
                products.append(best(lambda run=product, x=x: run(x), 2.0 * rows * narrow * wide))
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
        "device": device,
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
    dense = [r for r in rows if r["num_instances"] == 1 and r["sparsity"] == 0]
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


if __name__ == "__main__":
    arguments = parse()
    from prumux.errors import guard

    guard(lambda: main(arguments))
