"""Peak memory of the engine on a batch of 128 * N rows beside dense BERT-base on 128 rows, each in its own process.

    python benchmarks/memory.py

Measured is the largest resident size of the process (CPU), and by how much the batch raised it after the model was
built and had run once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]

CHILD = """
import json, resource, sys
import torch
from prumux import PrumuxConfig, PrumuxForSequenceClassification, compile_for_inference

file, instances, engine, dtype, groups = json.loads(sys.argv[1])
torch.set_num_threads(1)
config = PrumuxConfig(**json.loads(open(file).read()), num_instances=instances, num_labels=3)
model = PrumuxForSequenceClassification(config).eval()
if engine == "fast":
    run = compile_for_inference(model, dtype, "cpu", progress=False)
else:
    model = model.to(getattr(torch, dtype))
    run = torch.inference_mode()(lambda ids: model(ids).logits)
run(torch.ones(2 * instances, 128, dtype=torch.long))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
run(torch.randint(config.vocab_size, (groups * instances, 128)))
print(json.dumps([before, peak()]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--json", metavar="PATH", help="write the rows")
    args = parser.parse_args()
    dense = str(PROJECT / "configs" / "models" / "bert_base.json")
    pruned = str(PROJECT / "configs" / "structures" / "bert_base_s0.95.json")
    rows = []
    for name, case in {
        "dense BERT-base, plain, 128 rows": (dense, 1, "eager", args.dtype, 128),
        "dense BERT-base, engine, 128 rows": (dense, 1, "fast", args.dtype, 128),
        "N=10 s=0.95, plain, 1280 rows": (pruned, 10, "eager", args.dtype, 128),
        "N=10 s=0.95, engine, 1280 rows": (pruned, 10, "fast", args.dtype, 128),
    }.items():
        done = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(case)],
            capture_output=True,
            text=True,
            check=True,
            cwd=PROJECT,
        )
        before, peak = json.loads(done.stdout.splitlines()[-1])
        rows.append({"name": name, "dtype": args.dtype, "peak_mib": peak, "batch_mib": peak - before})
        print(
            f"| {name} | {args.dtype} | peak {peak:,.0f} MiB | of it for the batch {peak - before:,.0f} MiB |",
            flush=True,
        )
    if args.json:
        from prumux.reports.provenance import provenance, write_json

        print(f"written: {write_json(args.json, {'rows': rows, 'provenance': provenance(0)})}")


if __name__ == "__main__":
    main()
