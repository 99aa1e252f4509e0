#!/usr/bin/env bash
# WNUT-17 with a 6-layer, 384-wide encoder: dense, N=2, N=5, and N=2 pruned to 60 %; then evaluation of all of them.
#   MODEL=folder DATA_DIR=wnut17 OUTPUT_DIR=out/ner bash docs/results/variants/ner.sh
# One CPU core: about two hours.
set -euo pipefail
PYTHON=${PYTHON:-python} OUTPUT_DIR=${OUTPUT_DIR:-out/ner}
run() { # run FOLDER FLAGS...
  local folder=$1
  shift
  "$PYTHON" run_ner.py --task_name NER --data_dir "$DATA_DIR" --bf16 auto --do_train --do_eval --eval_strategy epoch \
    --save_strategy no --warmup_steps 60 --logging_steps 100 --similar_neighbours --disable_tqdm True "$@" --output_dir "$OUTPUT_DIR/$folder"
}
run dense --setting baseline --model_path "$MODEL" --learning_rate 1e-4 --num_train_epochs 5 --groups_per_batch 32
for n in 2 5; do
  run retrieval_$n --setting retrieval_pretraining --num_instances $n --model_path "$MODEL" --learning_rate 1e-4 \
    --max_steps 1500 --eval_strategy steps --eval_steps 500 --groups_per_batch 32 --retrieval_percentage 0.3
  run mux_$n --setting finetuning --num_instances $n --model_path "$OUTPUT_DIR/retrieval_$n/best" --learning_rate 2e-4 \
    --max_steps 800 --eval_strategy steps --eval_steps 200 --groups_per_batch 32 --num_groupings 3
done
run prumux_2 --setting pruning --num_instances 2 --model_path "$OUTPUT_DIR/mux_2/best" --target_sparsity 0.6 \
  --learning_rate 1e-4 --reg_learning_rate 0.05 --num_train_epochs 12 --lagrangian_warmup_epochs 4 --eval_strategy steps \
  --eval_steps 160 --groups_per_batch 32 --freeze_embeddings
run prumux_2_ft --setting finetuning --num_instances 2 --model_path "$OUTPUT_DIR/prumux_2/best" --learning_rate 1e-4 \
  --teacher "$OUTPUT_DIR/mux_2/best" --num_train_epochs 6 --groups_per_batch 32 --freeze_embeddings
for name in dense mux_2 mux_5 prumux_2_ft; do
  "$PYTHON" evaluation.py NER --model "$OUTPUT_DIR/$name/best" --baseline "$OUTPUT_DIR/dense/best" --data_dir "$DATA_DIR" \
    --num_groupings 10 --dynamic_padding --batch_size 16 --json "$OUTPUT_DIR/$name/evaluation.json"
done
