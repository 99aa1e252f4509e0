#!/usr/bin/env bash
# SST-2 with a 6-layer, 384-wide encoder: retrieval warm-up, then finetuning, per multiplexing and demultiplexing variant.
#   MODEL=folder DATA_DIR=glue OUTPUT_DIR=out/variants bash docs/results/variants/run.sh [NAME ...]
# Equal steps for all: 600 of warm-up with 32 groups, 800 of finetuning with 64 groups. One CPU core: 14 to 35 minutes per row.
set -euo pipefail
PYTHON=${PYTHON:-python} OUTPUT_DIR=${OUTPUT_DIR:-out/variants}
rows() {
  cat <<'ROWS'
index_pos_2 2
index_2 2 --demuxing_variant index
mlp_2 2 --demuxing_variant mlp
learned_2 2 --learn_muxing
index_pos_5 5
index_pos_10 10
ROWS
}
rows | while read -r name n flags; do
  [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
  common="--task_name SST-2 --data_dir $DATA_DIR --num_instances $n --bf16 auto --do_train --do_eval --eval_strategy steps
    --eval_steps 400 --save_strategy no --warmup_steps 60 --learning_rate 1e-4 --logging_steps 100 --similar_neighbours --disable_tqdm True"
  # shellcheck disable=SC2086
  "$PYTHON" run_glue.py $common $flags --setting retrieval_pretraining --model_path "$MODEL" --groups_per_batch 32 \
    --eval_steps 600 --max_steps 600 --retrieval_percentage 0.3 --max_eval_samples 400 --output_dir "$OUTPUT_DIR/$name/retrieval"
  # shellcheck disable=SC2086
  "$PYTHON" run_glue.py $common $flags --setting finetuning --model_path "$OUTPUT_DIR/$name/retrieval/best" \
    --groups_per_batch 64 --max_steps 800 --num_groupings 5 --output_dir "$OUTPUT_DIR/$name/finetuned"
done
