#!/usr/bin/env bash
# What each part of the recipe is worth, each row the recipe with one thing changed, in equal steps; docs/recipe.md has
# those that were run. In the project's folder, with its environment active:
#   DATA_DIR=glue OUTPUT_DIR=out bash docs/results/recipe/parts.sh [ROW ...]          no ROW: all, in order
# Writes OUTPUT_DIR/parts/ROW. Expects OUTPUT_DIR/SST-2/dense/best (bash scripts/run_glue.sh -N 1 -s baseline ...) and, for
# the rows prune_*, OUTPUT_DIR/SST-2/mux_2/best (... -N 2 -s finetuning ...). One CPU core: 12 to 40 minutes per row.
set -euo pipefail
PYTHON=${PYTHON:-python} OUTPUT_DIR=${OUTPUT_DIR:-out} DATA_DIR=${DATA_DIR:-glue}
DENSE=$OUTPUT_DIR/SST-2/dense/best MUX=$OUTPUT_DIR/SST-2/mux_2/best PARTS=$OUTPUT_DIR/parts
run() { # run FOLDER FLAGS...: the recipe with flags of its own; an earlier flag gives way to a later one
  local folder=$PARTS/$1
  shift
  # shellcheck disable=SC2086
  "$PYTHON" run_glue.py --task_name SST-2 --data_dir "$DATA_DIR" --recipe configs/recipes/prumux.yaml --num_instances 2 \
    --do_train --do_eval --save_strategy no --output_dir "$folder" "$@" ${EXTRA:-}
}
train() { # train ROW FLAGS...: N = 2, a quarter of the recipe's steps
  run "$1" --setting finetuning --model_path "$DENSE" --teacher "$DENSE" --max_steps 800 "${@:2}"
}
warm_up() { # 600 steps of token retrieval, which the rows without copies start from
  [ -e "$PARTS/retrieval/best/config.json" ] ||
    run retrieval --setting retrieval_pretraining --model_path "$DENSE" --muxing_variant gaussian_hadamard --max_steps 600 --eval_steps 600 --warmup_steps 60 \
      --groups_per_batch 32 --learning_rate 1e-4 --retrieval_percentage 0.3 --max_eval_samples 400 --bf16 auto
}
no_copies() { # no_copies ROW FLAGS...
  warm_up
  train "$1" --model_path "$PARTS/retrieval/best" --separate_instances False --muxing_variant gaussian_hadamard "${@:2}"
}
prune() { # prune ROW FLAGS...: to 0.90 in half of the recipe's steps, then finetuning in two fifths
  run "$1" --setting pruning --model_path "$MUX" --teacher "$DENSE" --target_sparsity 0.9 --num_train_epochs 1 "${@:2}"
  run "$1_ft" --setting finetuning --model_path "$PARTS/$1/best" --teacher "$DENSE" --max_steps 400 ${FT:-}
}
LABELS="--distill_state_loss_alpha 0 --distill_ce_loss_alpha 0 --distill_task_loss_alpha 1"
LAYERS="--distill_layer_loss_alpha 0.9 --distill_ce_loss_alpha 0.1"
ROWS="recipe labels_after_warm_up warm_up labels words labels_too no_states no_logits temperature_1 one_rate dropout
  similar_neighbours attend_padding learned_keys prune prune_layers prune_layers_3 prune_words prune_slow_rise
  prune_multipliers prune_fisher prune_gradient prune_round_to_8 prune_speedup"
row() {
  # shellcheck disable=SC2086
  case $1 in
    recipe) train "$1" ;;
    # how it starts, and what teaches it
    labels_after_warm_up) no_copies "$1" $LABELS --hidden_dropout_prob 0.1 --attention_probs_dropout_prob 0.1 ;; # DataMUX
    warm_up) no_copies "$1" ;;
    labels) train "$1" $LABELS ;;
    words) train "$1" --replace_tokens 0.3 ;;
    labels_too) train "$1" --distill_task_loss_alpha 1 ;;
    no_states) train "$1" --distill_state_loss_alpha 0 ;;
    no_logits) train "$1" --distill_ce_loss_alpha 0 ;;
    temperature_1) train "$1" --distill_temp 1 ;;
    # rates, dropout, groups, keys
    one_rate) train "$1" --head_learning_rate 1e-4 ;;
    dropout) train "$1" --hidden_dropout_prob 0.1 --attention_probs_dropout_prob 0.1 ;;
    similar_neighbours) train "$1" --similar_neighbours True ;;
    attend_padding) train "$1" --attend_padding True ;;
    learned_keys) train "$1" --learn_muxing True ;;
    # pruning to 0.90
    prune) prune "$1" ;;
    prune_layers) FT="--teacher $MUX $LAYERS" prune "$1" --teacher "$MUX" $LAYERS ;; # the paper's teacher and losses
    prune_layers_3) FT="--teacher $MUX $LAYERS --layer_distill_version 3" prune "$1" --teacher "$MUX" $LAYERS \
      --layer_distill_version 3 ;;
    prune_words) FT="--replace_tokens 0.3" prune "$1" --replace_tokens 0.3 ;;
    prune_slow_rise) prune "$1" --lagrangian_warmup_ratio 0.8 ;;
    prune_multipliers) prune "$1" --multiplier_learning_rate 0.25 ;;
    prune_fisher) prune "$1" --initial_gates fisher ;;
    prune_gradient) prune "$1" --pruning_criterion gradient ;;
    prune_round_to_8) prune "$1" --round_to 8 ;;
    prune_speedup) prune "$1" --target_speedup 7.7 ;; # over N = 2 unpruned, where 0.90 is that much faster
    *) echo "no row '$1', expected one of: $ROWS" >&2; exit 2 ;;
  esac
}
# shellcheck disable=SC2086
[ $# -gt 0 ] || set -- $ROWS
for name in "$@"; do # before hours of training
  case " ${ROWS//$'\n'/ } " in *" $name "*) ;; *) row "$name" ;; esac
done
for name in "$@"; do row "$name"; done
