#!/usr/bin/env bash
# Reruns rows of docs/ablations.md (short schedules) on SST-2: bash docs/results/recipe/run.sh ROW ... (no ROW: all, in order).
#   DATA_DIR=glue OUTPUT_DIR=out EXTRA="more flags"; expects OUTPUT_DIR/SST-2/dense/best (bash scripts/run_glue.sh -N 1
#   -s baseline ...), for the last seven rows OUTPUT_DIR/SST-2/mux_2/best (... -N 2 -s finetuning ...), for the two rows
#   _of_narrow OUTPUT_DIR/SST-2/mux_5 (... -N 5 -s finetuning ...) and, for warmed_up_2,
#   out/variants/index_pos_2/retrieval/best (docs/results/variants/run.sh index_pos_2).
# One CPU core: 10 to 30 minutes per row.
set -euo pipefail
PYTHON=${PYTHON:-python} OUTPUT_DIR=${OUTPUT_DIR:-out} DATA_DIR=${DATA_DIR:-glue}
DENSE=$OUTPUT_DIR/SST-2/dense/best
run() { # run ROW FLAGS...
  local row=$1
  shift
  "$PYTHON" run_glue.py --task_name SST-2 --data_dir "$DATA_DIR" --bf16 auto --do_train --do_eval --eval_strategy steps \
    --save_strategy no --warmup_steps 60 --logging_steps 100 --num_groupings 5 --eval_steps 400 --learning_rate 1e-4 \
    --teacher "$DENSE" --distill_ce_loss_alpha 1 --distill_state_loss_alpha 1 --groups_per_batch 32 --max_steps 1600 \
    --hidden_dropout_prob 0 --attention_probs_dropout_prob 0 --similar_neighbours True "$@" --output_dir "$OUTPUT_DIR/recipe/$row" ${EXTRA:-}
}
COPIES="--setting finetuning --separate_instances --muxing_variant binary_hadamard --binary_hadamard_epsilon 0
  --head_learning_rate 1e-3"
SHORT="--num_instances 2 --model_path $DENSE --max_steps 800"
prune() { # prune ROW FLAGS...: a short pruning run from the recipe's N = 2, and ROW_ft after it
  local row=$1
  shift
  run "$row" --setting pruning --num_instances 2 --model_path "$OUTPUT_DIR/SST-2/mux_2/best" --freeze_embeddings \
    --reg_learning_rate 0.05 --lagrangian_warmup_epochs 0.3 --max_steps 700 --eval_steps 350 "$@"
  run "${row}_ft" --setting finetuning --num_instances 2 --model_path "$OUTPUT_DIR/recipe/$row/best" --freeze_embeddings \
    --max_steps 400
}
row() {
  # shellcheck disable=SC2086
  case $1 in
    warmed_up_2) run $1 --setting finetuning --num_instances 2 --head_learning_rate 1e-3 \
      --model_path "$OUTPUT_DIR/variants/index_pos_2/retrieval/best" ;;
    copies_2) run $1 $COPIES --num_instances 2 --model_path "$DENSE" ;;
    copies_5) run $1 $COPIES --num_instances 5 --model_path "$DENSE" --groups_per_batch 16 ;;
    narrow_2_pruned) run $1 --setting pruning --num_instances 1 --model_path "$DENSE" --distill_states True --narrow_for 2 \
      --groups_per_batch 64 --max_steps 120 --lagrangian_warmup_epochs 0.04 --eval_steps 120 ;;
    narrow_2) run $1 --setting finetuning --num_instances 1 --model_path "$OUTPUT_DIR/recipe/narrow_2_pruned/best" \
      --distill_states True --groups_per_batch 64 --max_steps 1500 --learning_rate 2e-4 --eval_steps 500 ;;
    copies_of_narrow_2) run $1 $COPIES --num_instances 2 --model_path "$OUTPUT_DIR/recipe/narrow_2/best" ;;
    pruned_2) run $1 --setting pruning --num_instances 2 --model_path "$OUTPUT_DIR/recipe/copies_2/best" \
      --freeze_embeddings --reg_learning_rate 0.05 --lagrangian_warmup_epochs 0.4 --target_sparsity 0.6 0.9 \
      --max_steps 1800 --eval_steps 300 ;;
    pruned_2_0.60_ft) run $1 --setting finetuning --num_instances 2 --freeze_embeddings --max_steps 800 \
      --model_path "$OUTPUT_DIR/recipe/pruned_2/sparsity0.60/best" ;;
    pruned_2_0.90_ft) run $1 --setting finetuning --num_instances 2 --freeze_embeddings --max_steps 800 \
      --model_path "$OUTPUT_DIR/recipe/pruned_2/best" ;;
    # single parts, each changed alone: a quarter of the recipe's steps
    short_2) run $1 $COPIES $SHORT ;;
    short_2_one_rate) run $1 $COPIES $SHORT --head_learning_rate 1e-4 ;;
    short_2_dropout) run $1 $COPIES $SHORT --hidden_dropout_prob 0.1 --attention_probs_dropout_prob 0.1 ;;
    short_2_no_states) run $1 $COPIES $SHORT --distill_state_loss_alpha 0 ;;
    short_2_labels_too) run $1 $COPIES $SHORT --distill_task_loss_alpha 1 ;;
    short_2_labels) run $1 $COPIES $SHORT --distill_state_loss_alpha 0 --distill_ce_loss_alpha 0 \
      --distill_task_loss_alpha 1 ;;
    short_2_any_length) run $1 $COPIES $SHORT --megabatch 0 --similar_neighbours False ;;
    short_2_any_neighbours) run $1 $COPIES $SHORT --similar_neighbours False ;;
    short_5) run $1 $COPIES --num_instances 5 --model_path "$DENSE" --groups_per_batch 16 --max_steps 800 ;;
    short_5_any_neighbours) run $1 $COPIES --num_instances 5 --model_path "$DENSE" --groups_per_batch 16 --max_steps 800 \
      --similar_neighbours False ;;
    # N = 5 from the narrow encoder of the recipe's own run (OUTPUT_DIR/SST-2/mux_5/narrow/best)
    short_5_of_narrow) run $1 $COPIES --num_instances 5 --model_path "$OUTPUT_DIR/SST-2/mux_5/narrow/best" \
      --groups_per_batch 16 --max_steps 800 ;;
    short_5_of_narrow_any_neighbours) run $1 $COPIES --num_instances 5 --model_path "$OUTPUT_DIR/SST-2/mux_5/narrow/best" \
      --groups_per_batch 16 --max_steps 800 --similar_neighbours False ;;
    # ways to choose what goes, from the recipe's N = 2 (OUTPUT_DIR/SST-2/mux_2/best)
    l0_0.90) prune $1 --target_sparsity 0.9 ;;
    gradual_0.90) prune $1 --target_sparsity 0.9 --lagrangian_warmup_epochs 0.55 ;;
    gradient_0.90) prune $1 --target_sparsity 0.9 --pruning_criterion gradient ;;
    multipliers_0.90) prune $1 --target_sparsity 0.9 --multiplier_learning_rate 0.25 ;;
    fisher_0.90) prune $1 --target_sparsity 0.9 --initial_gates fisher ;;
    round_to_8_0.90) prune $1 --target_sparsity 0.9 --round_to 8 ;;
    speedup_7.4) prune $1 --target_speedup 7.4 ;;
    *) echo "no row '$1'" >&2; exit 2 ;;
  esac
}
[ $# -gt 0 ] || set -- warmed_up_2 copies_2 copies_5 narrow_2_pruned narrow_2 copies_of_narrow_2 pruned_2 pruned_2_0.60_ft \
  pruned_2_0.90_ft short_2 short_2_one_rate short_2_dropout short_2_no_states short_2_labels_too short_2_labels \
  short_2_any_length short_2_any_neighbours short_5 short_5_any_neighbours short_5_of_narrow \
  short_5_of_narrow_any_neighbours l0_0.90 \
  gradual_0.90 gradient_0.90 multipliers_0.90 fisher_0.90 round_to_8_0.90 speedup_7.4
for name in "$@"; do row "$name"; done
