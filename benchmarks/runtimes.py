"""The models that `throughput.py` measures, each in a dtype and a runtime: ours, Hugging Face, OpenVINO, ORT."""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prumux.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
STRUCTURES = PROJECT / "configs" / "structures"
SHAPES = {  # what users compare with, beside BERT-base
    "minilm": {"num_hidden_layers": 6, "hidden_size": 384, "intermediate_size": 1536},
    "tinybert": {"num_hidden_layers": 4, "hidden_size": 312, "intermediate_size": 1200},
}
DENSE_ROWS = 16  # of a dense model in one pass: enough for its best speed, and short


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
    device: str = ""  # where that isn't the benchmark's


class Bench:
    """Builds the runners."""

    def __init__(self, args: argparse.Namespace, device: Any, threads: int) -> None:
        self.args, self.device, self.threads = args, device, threads
        self.against = [name for name in args.against.split(",") if name]
        unknown = set(self.against) - {"hf", "openvino", "onnxruntime", *SHAPES}
        if unknown:
            raise UserError(f"unknown --against {unknown.pop()}: hf, openvino, onnxruntime, minilm, tinybert")

    def runners(self) -> list[Runner]:
        from prumux.pruning.accounting import model_size

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

            for folder in self.args.model:
                model = load_model(folder).model
                for dtype in self.args.dtype:
                    found.append(self.ours(model, None, dtype, folder))
            return found
        for instances in self.args.num_instances:
            for sparsity in self.args.sparsity:
                if (instances, sparsity) == (1, 0.0) and not self.args.structure:
                    continue
                config = self.structure(sparsity)
                config.num_instances = instances
                model = self.model(config)
                counted = model_size(model).sparsity if self.args.structure else sparsity
                for dtype in self.args.dtype:
                    found.append(self.ours(model, counted, dtype, f"N={instances} s={counted:.3g}"))
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
            raise UserError(f"no structure of sparsity {sparsity}: there are {there}; or name a --structure")
        return self.read(file)

    def read(self, file: Path) -> Any:
        from prumux import PrumuxConfig

        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            return PrumuxConfig(**fields, num_labels=3)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"can't read {file} ({error}): expected a configuration as in configs/structures"
            ) from error

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
        before = (
            torch.cuda.memory_allocated() if self.device.type == "cuda" else 0
        )  # of the runners built so far
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
            runner.peak = (torch.cuda.max_memory_allocated() - before) / 2**20
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
            found.append(
                Runner(name, "openvino", dtype, 1, 0.0, config, len(ids), run, difference, device="cpu")
            )
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
            found.append(
                Runner(name, "onnxruntime", dtype, 1, 0.0, config, len(ids), run, difference, device="cpu")
            )
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
