#!/usr/bin/env bash
# The final table of docs/recipe.md: each row with each seed, by the scripts as a user calls them.
#   DATA_DIR=glue MODEL=minilm OUTPUT_DIR=out SEEDS="57 58 59" bash docs/results/recipe/seeds.sh [ROW ...]   no ROW: all, in order
# Run it in the project's folder with its environment active. Writes OUTPUT_DIR/sSEED and a line per run to
# OUTPUT_DIR/seeds.jsonl, which `prumux report` reads (the last two rows: seeds_no_words.jsonl and seeds_paper.jsonl); the
# same command again skips what is done. One CPU core: 6 hours for a seed.
set -euo pipefail
"${PYTHON:=python}" -c "import prumux" 2>/dev/null || # now, and not after the first training
  { echo "error: prumux is not installed for $PYTHON: source .venv/bin/activate" >&2; exit 2; }
ROOT=${OUTPUT_DIR:-out} ENCODER=${MODEL:-minilm}
export DATA_DIR=${DATA_DIR:-glue} PRUMUX_RESULTS=$ROOT/seeds.jsonl SEED
unset MODEL
ROWS="dense mux_2 0.60_2 0.90_2 mux_5 cofi cofi_no_words cofi_paper"
evaluate() { # evaluate SPARSITY N
  "$PYTHON" evaluation.py SST-2 "$@" --baseline "$DENSE" --num_groupings 10 --dynamic_padding --batch_size 16 --repeats 1
}
train() { # train N: finetune and evaluate
  bash scripts/run_glue.sh -N "$1" -s finetuning --task SST-2
  evaluate 0 "$1"
}
prune() { # prune SPARSITY N: prune, finetune and evaluate
  bash scripts/run_PruMUX.sh SST-2 "$@"
  bash scripts/run_PruMUX_FT.sh SST-2 "$@"
  evaluate "$@"
}
row() { # row ROW: of $SEED, in $OUTPUT_DIR
  case $1 in
    dense) bash scripts/run_glue.sh -N 1 -s baseline --task SST-2 --model_path "$ENCODER" ;;
    mux_*) train "${1#mux_}" ;;
    0.*_*) prune "${1%_*}" "${1#*_}" ;;
    cofi) prune 0.90 1 ;;
    cofi_no_words)
      export PRUMUX_RESULTS=$ROOT/seeds_no_words.jsonl OUTPUT_DIR=$OUTPUT_DIR/no_words TEACHER=$DENSE
      EXTRA="--replace_tokens 0" prune 0.90 1
      ;;
    cofi_paper) # the paper's losses and rates, its schedule scaled to the recipe's steps
      export PRUMUX_RESULTS=$ROOT/seeds_paper.jsonl OUTPUT_DIR=$OUTPUT_DIR/paper TEACHER=$DENSE
      export RECIPE=configs/recipes/paper.yaml BATCH_SIZE=32
      local every="--eval_strategy steps --eval_steps 400 --save_strategy steps --save_steps 400 --bf16 auto"
      EPOCHS=2 EXTRA="--prepruning_finetune_epochs 0.1 --lagrangian_warmup_epochs 0.2 $every" \
        bash scripts/run_PruMUX.sh SST-2 0.90 1
      EPOCHS=1 EXTRA=$every bash scripts/run_PruMUX_FT.sh SST-2 0.90 1
      evaluate 0.90 1
      ;;
    *) echo "no row '$1', expected one of: $ROWS" >&2; exit 2 ;;
  esac
}
# shellcheck disable=SC2086
[ $# -gt 0 ] || set -- $ROWS
for name in "$@"; do # before hours of training
  [[ $name =~ ^(dense|mux_[0-9]+|0\.[0-9]+_[0-9]+|cofi(_no_words|_paper)?)$ ]] || row "$name"
done
for SEED in ${SEEDS:-57 58 59}; do
  for name in "$@"; do
    (export OUTPUT_DIR=$ROOT/s$SEED DENSE=$ROOT/s$SEED/SST-2/dense/best && row "$name")
  done
done
