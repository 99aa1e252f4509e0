#!/usr/bin/env bash
# Finetunes a pruned model with the same distillation, its structure fixed. Usage:
#   run_PruMUX_FT.sh [TASK [SPARSITY [N [LAYER_ALPHA [CE_ALPHA [LAYER_DISTILL_VERSION [LEARNING_RATE]]]]]]]
# Defaults: MNLI 0.60 2, then what the recipe says. Without any argument: the embedded task toy, pruning its model first.
# Starts from the model that run_PruMUX.sh wrote for the same arguments (environment: MODEL names another) and writes
# FT-lrLEARNING_RATE/best below its folder. Other environment variables as in run_PruMUX.sh.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -le 7 ] ||
  fail "at most 7 arguments, got $#: TASK SPARSITY N LAYER_ALPHA CE_ALPHA LAYER_DISTILL_VERSION LEARNING_RATE"

parse_triple "${@:1:6}"
LEARNING_RATE=${7:-$(recipe_value finetuning_pruned learning_rate)}
LEARNING_RATE=${LEARNING_RATE:-5e-5} # Transformers' own
FT_DIR=$PRUNED_DIR/FT-lr$LEARNING_RATE
setup
start=${MODEL:-$PRUNED_DIR/best} # what was pruned need not be there any more
! is_embedded "$TASK" || [ -n "${MODEL:-}" ] || [ -e "$start/config.json" ] || start='' # all is trained now
MODEL=$start set_teacher
pruning=(run_PruMUX.sh "$TASK" "$SPARSITY" "$N" "${@:4:3}")
if [ -z "${MODEL:-}" ] && [ ! -e "$PRUNED_DIR/run.json" ]; then
  if is_embedded "$TASK"; then
    export TEACHER
    earlier_phase "${pruning[@]}"
  elif [ -z "${PRUMUX_DRY_RUN:-}" ]; then
    fail "no finished pruning run in $PRUNED_DIR: run it first (bash $PROJECT/scripts/${pruning[*]}) or name a pruned model: MODEL=/path/to/model"
  fi
fi
common_arguments
distillation_arguments
# shellcheck disable=SC2086  # EXTRA holds several flags
run "$PROJECT/run_glue.py" --setting finetuning "${ARGS[@]}" ${7:+--learning_rate "$7"} \
  --model_name_or_path "${MODEL:-$PRUNED_DIR/best}" "${DISTILLATION[@]}" --do_train --do_eval \
  --output_dir "$FT_DIR" ${EXTRA:-}

length=''
! is_embedded "$TASK" || length=" --max_seq_length 32" # the toy encoder has fewer positions than the paper's 128
next_step "finetuned model: $FT_DIR/best. Next, measure it:" "$PYTHON $PROJECT/evaluation.py $TASK $SPARSITY $N$length"
