#!/usr/bin/env bash
# Measures every table of docs/performance.md again (pip install -e '.[benchmark]'; one core: 80 minutes).
#   OUTPUT_DIR=folder bash docs/results/performance/run.sh
#   with MODEL=folder PRUNED=folder DATA_DIR=glue, classifiers trained on SST-2 (N = 2), also lengths and int8
set -euo pipefail
PYTHON=${PYTHON:-python} OUTPUT_DIR=${OUTPUT_DIR:-out/performance}
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
[ -z "${MODEL:-}" ] || : "${PRUNED:?name the pruned model, too}" "${DATA_DIR:?name the folder of SST-2}"
mkdir -p "$OUTPUT_DIR"
measure() { # measure NAME SCRIPT FLAGS...
  local name=$1 script=$2
  shift 2
  "$PYTHON" "benchmarks/$script.py" "$@" --json "$OUTPUT_DIR/$name.json"
}
pruned() { measure "$1" throughput --num_instances 10 --sparsity 0.95 "${@:2}"; }

pruned top --dtype float32 bfloat16 int8 --against hf,openvino,onnxruntime,minilm,tinybert --batch 64 --repeats 4 --no_wall
for dtype in bfloat16 float32; do
  measure "grid_$dtype" throughput --num_instances 1 2 5 10 --sparsity 0 0.6 0.8 0.9 0.95 --dtype $dtype \
    --against hf,openvino --batch 16 --repeats 3 --no_wall
done
for size in 128:1 128:2 128:8 128:32 128:128 32:32 64:32 256:32 512:32; do
  pruned "growth_${size/:/_}" --against hf --dtype bfloat16 --no_wall --repeats 3 --length "${size%:*}" --batch "${size#*:}"
done
measure memory memory
measure training_step training_step
if [ -n "${MODEL:-}" ]; then
  measure predict predict "$MODEL" SST-2 --data_dir "$DATA_DIR"
  for dtype in float32 int8; do
    measure "predict_mux_2_$dtype" predict "$MODEL" SST-2 --data_dir "$DATA_DIR" --dtype $dtype --groupings 5
    measure "predict_prumux_0.90_2_$dtype" predict "$PRUNED" SST-2 --data_dir "$DATA_DIR" --dtype $dtype --groupings 5
  done
fi
unset OMP_NUM_THREADS MKL_NUM_THREADS # by the clock, with all cores
pruned wall --dtype bfloat16 --batch 64 --repeats 4 --protocol wall --against hf,openvino,minilm,tinybert
