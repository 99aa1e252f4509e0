#!/usr/bin/env bash
# Prunes a finetuned multiplexed model, taught by the dense one, or by itself as in the paper (N=1: CoFi). Usage:
#   run_PruMUX.sh [TASK [SPARSITY [N [LAYER_ALPHA [CE_ALPHA [LAYER_DISTILL_VERSION]]]]]]
# Defaults: MNLI 0.60 2, then what the recipe says (0.9 0.1 4 in the paper's; the default recipe matches every token's
# state instead of layers, so there only CE_ALPHA counts). Without any argument: the embedded task toy, training its model first.
# Writes out/TASK/PruMUX/TASK_sparsityS_N_VERSION_ALPHA/best. The same command again resumes, or skips what is done.
# Environment, all optional:
#   DATA_DIR                     folder in GLUE's own file layout instead of the hub
#   TRAIN_FILE, VALIDATION_FILE  your own CSV, TSV or JSON files
#   MODEL                        model to prune (default out/TASK/mux_N/best, for N=1 out/TASK/dense/best; for N > 1 on
#                                MNLI, QNLI, QQP and SST-2 the authors' on the hub when there is none)
#   TEACHER                      model to distil from (default out/TASK/dense/best; with RECIPE=configs/recipes/paper.yaml,
#                                or without that model, the one that is pruned)
#   OUTPUT_DIR                   root of the output folders (default out in the project)
#   RECIPE                       hyperparameters (default configs/recipes/prumux.yaml)
#   EPOCHS, BATCH_SIZE (groups per batch), SEED, EXTRA (more flags of run_glue.py; with several sparsities, such as
#                                EXTRA="--target_sparsity 0.6 0.8 0.9", the last one is SPARSITY, and those on the way
#                                are in .../sparsity0.60/best and .../sparsity0.80/best)
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -le 6 ] || fail "at most 6 arguments, got $#: TASK SPARSITY N LAYER_ALPHA CE_ALPHA LAYER_DISTILL_VERSION"

parse_triple "$@"
last=$(printf '%s\n' ${EXTRA:-} | awk -F= '/^--/ {inside = $1 ~ /^--target[_-]sparsity$/; if (!inside || NF < 2) next}
  inside {last = $NF} END {print last}') # of several targets in EXTRA; the folder has the name of the one given here
awk -v last="${last:-$SPARSITY}" -v named="$SPARSITY" 'BEGIN {exit last + 0 != named + 0}' ||
  fail "EXTRA ends at --target_sparsity $last, but the folder would be named after $SPARSITY: give SPARSITY $last"
setup
set_teacher
common_arguments
distillation_arguments
# shellcheck disable=SC2086  # EXTRA holds several flags
run "$PROJECT/run_glue.py" --setting pruning "${ARGS[@]}" --target_sparsity "$SPARSITY" \
  --model_name_or_path "$START" "${DISTILLATION[@]}" --do_train --do_eval \
  --output_dir "$PRUNED_DIR" ${EXTRA:-}

next_step "pruned model: $PRUNED_DIR/best. Next, finetune it:" \
  "bash $PROJECT/scripts/run_PruMUX_FT.sh $TASK $SPARSITY $N${4:+ ${*:4}}"
