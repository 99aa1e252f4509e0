# Sourced by every script here: where the project is, which Python runs it, the set-up, names and defaults.
#
# Environment:
#   PYTHON           the interpreter. Used as it is when this project is installed in it, otherwise .venv is made with it
#   PRUMUX_DRY_RUN   1: no set-up; print each command instead of running it
# An active virtual or conda environment in which this project is installed is used as it is.
# shellcheck shell=bash disable=SC2034  # the variables set here are used by the scripts
set -euo pipefail

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$PROJECT/.venv

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "error: $*"
  exit 2
}
usage() { # the comment block at the top of the calling script
  awk 'NR > 1 && !/^#/ {exit} NR > 1 {sub(/^# ?/, ""); print}' "$0"
}

# ---- set-up ---------------------------------------------------------------------------------------------------------

# has_project PYTHON EXTRA: is this checkout installed there, with what EXTRA ("base" or "test") needs?
has_project() {
  "$1" -I - "$PROJECT" "$2" >/dev/null 2>&1 <<'PY'
import importlib.util, pathlib, sys
project, extra = sys.argv[1:]
needed = ["torch", "transformers"] + (["pytest", "xdist", "hypothesis", "ruff", "mypy"] if extra == "test" else [])
here = importlib.util.find_spec("prumux").origin
assert pathlib.Path(here).resolve().parents[1] == pathlib.Path(project).resolve()
assert all(importlib.util.find_spec(name) for name in needed)
PY
}

installed() { # installed STAMP EXTRA; the test extra holds everything of base
  [ "$(cat "$VENV/.installed-test" 2>/dev/null)" = "$1" ] ||
    { [ "$2" = base ] && [ "$(cat "$VENV/.installed-base" 2>/dev/null)" = "$1" ]; }
}

# setup [test]: leaves in PYTHON an interpreter in which prumux (and the test tools) can be imported.
setup() {
  local extra=${1:-base} candidate stamp target log
  if [ -n "${PRUMUX_DRY_RUN:-}" ]; then
    PYTHON=${PYTHON:-python}
    return
  fi
  for candidate in ${PYTHON:+"$PYTHON"} ${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} ${CONDA_PREFIX:+"$CONDA_PREFIX/bin/python"}; do
    if [ "$candidate" != "$VENV/bin/python" ] && has_project "$candidate" "$extra"; then
      PYTHON=$candidate
      return
    fi
  done

  stamp="$(cksum <"$PROJECT/pyproject.toml") $PROJECT"
  if ! installed "$stamp" "$extra"; then
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
      make_venv "${PYTHON:-python3}"
    fi
    target=$PROJECT
    [ "$extra" = base ] || target="${PROJECT}[$extra]"
    log=$VENV/install.log
    say "installing prumux and its dependencies into $VENV (the first time: some minutes)"
    "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off -e "$target" 2>&1 |
      tee "$log" | awk '/Downloading .*\([0-9][0-9]+\.[0-9] MB\)/ || /^Installing/ {print "  " substr($0, 1, 100); fflush()}' >&2 ||
      { tail -n 5 "$log" | cut -c 1-300 >&2; fail "the install failed, see $log; check the network and the disk and run the same command again"; }
    printf '%s\n' "$stamp" >"$VENV/.installed-$extra" # last: an interrupted install is repeated
  fi
  PYTHON=$VENV/bin/python
}

make_venv() { # make_venv PYTHON
  command -v "$1" >/dev/null || fail "no '$1' found: install Python 3.10 or newer, or name one: PYTHON=/path/to/python bash $0"
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "'$1' is $("$1" --version 2>&1), prumux needs Python 3.10 or newer: PYTHON=/path/to/python3 bash $0"
  say "creating $VENV with $("$1" --version 2>&1)"
  "$1" -m venv --clear "$VENV" >&2 ||
    fail "'$1 -m venv' failed: on Debian or Ubuntu install the package python3-venv; is $PROJECT writable?"
}

# ---- running --------------------------------------------------------------------------------------------------------

run() { # run ARGUMENTS...: the chosen Python with them, or, in a dry run, the command line alone
  if [ -n "${PRUMUX_DRY_RUN:-}" ]; then
    printf 'python'
    printf ' %q' "$@"
    printf '\n'
  else
    "$PYTHON" "$@"
  fi
}

# ---- names and defaults ---------------------------------------------------------------------------------------------

export PRUMUX_RESULTS=${PRUMUX_RESULTS-$PROJECT/results/runs.jsonl} # where every run is recorded; empty: nowhere
OUTPUT_DIR=${OUTPUT_DIR:-$PROJECT/out}
OUTPUT_DIR=${OUTPUT_DIR%/}
GIVEN_RECIPE=${RECIPE:-} GIVEN_TEACHER=${TEACHER:-}

# canonical_task NAME: the folder name of a task, as prumux.data.tasks spells it (tests/test_scripts.py compares them)
canonical_task() {
  case $(printf '%s' "$1" | tr '[:upper:]' '[:lower:]' | tr -d '_-') in
    mnli) echo MNLI ;;
    qnli) echo QNLI ;;
    qqp) echo QQP ;;
    sst2) echo SST-2 ;;
    mrpc) echo MRPC ;;
    rte) echo RTE ;;
    cola) echo CoLA ;;
    stsb) echo STS-B ;;
    wnli) echo WNLI ;;
    ner) echo NER ;;
    toy) echo toy ;;
    toynli) echo toy-nli ;;
    *) printf '%s\n' "$1" ;; # the user's own files, or a slip that run_glue.py answers with the list of tasks
  esac
}
is_embedded() { case $1 in toy | toy-nli) true ;; *) false ;; esac; }

# set_recipe TASK: where the hyperparameters are, and the encoder of the embedded tasks
set_recipe() {
  if [ -n "${RECIPE:-}" ] && [ ! -e "$RECIPE" ] && [ -e "$PROJECT/$RECIPE" ]; then
    RECIPE=$PROJECT/$RECIPE # configs/recipes/cpu.yaml from any folder
  fi
  if is_embedded "$1"; then
    RECIPE=${RECIPE:-$PROJECT/configs/recipes/quickstart.yaml}
    CONFIG=${CONFIG:-$PROJECT/configs/models/toy.json}
  else
    RECIPE=${RECIPE:-$PROJECT/configs/recipes/prumux.yaml}
  fi
}

teacher_dir() { # teacher_dir TASK N: the folder of the finetuned, not pruned model
  if [ "$2" = 1 ]; then echo "$OUTPUT_DIR/$1/dense"; else echo "$OUTPUT_DIR/$1/mux_$2"; fi
}

# parse_triple TASK SPARSITY N LAYER_ALPHA CE_ALPHA LAYER_DISTILL_VERSION: sets them, with the defaults of the paper's
# example (the embedded task when there are no arguments at all), and PRUNED_DIR.
parse_triple() {
  if [ $# -eq 0 ]; then TASK=toy; else TASK=$(canonical_task "${1:-MNLI}"); fi
  LAYER_ALPHA_GIVEN=${4:-} CE_ALPHA_GIVEN=${5:-}
  N=${3:-2} LAYER_ALPHA=${4:-0.9} CE_ALPHA=${5:-0.1} LAYER_DISTILL_VERSION=${6:-4}
  [[ ${2:-0.60} =~ ^[0-9]*\.?[0-9]+$ ]] || fail "SPARSITY must be a number from 0 to 0.99, got '$2': TASK SPARSITY N ..."
  [[ $N =~ ^[1-9][0-9]*$ ]] || fail "N must be a whole number from 1 on, got '$N': TASK SPARSITY N ..."
  SPARSITY=${2:-0.60}
  awk -v s="$SPARSITY" 'BEGIN {exit !(s <= 0.99)}' ||
    fail "SPARSITY is the share of weights to remove, 0 to 0.99 (0.60 removes 60 %), got '$SPARSITY'"
  [[ $SPARSITY =~ ^[0-9]*\.[0-9]{3,}$ ]] || SPARSITY=$(LC_ALL=C printf '%.2f' "$SPARSITY") # 0.6 and .6 are 0.60
  PRUNED_DIR=$OUTPUT_DIR/$TASK/PruMUX/${TASK}_sparsity${SPARSITY}_${N}_${LAYER_DISTILL_VERSION}_${LAYER_ALPHA}
  set_recipe "$TASK"
}

dense_teaches() { # does the recipe let the dense model teach multiplexed ones
  grep -q '^teacher: *dense' "$RECIPE" 2>/dev/null
}

instances_of() { # instances_of FOLDER: N of the model in it, 1 where that isn't said
  sed -n 's/.*"num_instances": *\([0-9]*\).*/\1/p' "$1/config.json" 2>/dev/null | head -n 1 | grep . || echo 1
}

# set_teacher: START, the model that is pruned (MODEL of the environment), and TEACHER, the one it learns from (of the
# environment); else those trained here, else the authors' on the hub; an embedded task's are trained first.
set_teacher() {
  local ours dense
  ours=$(teacher_dir "$TASK" "$N") dense=$(teacher_dir "$TASK" 1)
  if [ -n "${TEACHER:-}" ]; then
    START=${MODEL:-$TEACHER}
    if [ -z "${MODEL:-}" ] && [ "$N" != 1 ] && [ -e "$TEACHER/config.json" ] && [ "$(instances_of "$TEACHER")" = 1 ]; then
      START=$ours/best # a dense teacher of a multiplexed model
    fi
    return
  elif [ -e "$ours/best/config.json" ] || { [ -n "${MODEL:-}" ] && dense_teaches && [ -e "$dense/best/config.json" ]; }; then
    TEACHER=$ours/best
    START=${MODEL:-$TEACHER}
    ! dense_teaches || [ ! -e "$dense/best/config.json" ] || TEACHER=$dense/best
    return
  elif is_embedded "$TASK"; then
    train_teacher
    TEACHER=$ours/best
    START=${MODEL:-$TEACHER}
    ! dense_teaches || [ ! -e "$dense/best/config.json" ] || TEACHER=$dense/best
    return
  elif [ "$N" != 1 ] && [[ $TASK =~ ^(MNLI|QNLI|QQP|SST-2)$ ]]; then
    TEACHER=princeton-nlp/muxbert_base_$(printf '%s' "${TASK/-/}" | tr '[:upper:]' '[:lower:]')_gaussian_hadamard_index_pos_$N
  elif [ -n "${PRUMUX_DRY_RUN:-}" ]; then
    TEACHER=$ours/best
  else
    check_task
    local setting=finetuning
    [ "$N" != 1 ] || setting=baseline
    fail "no finetuned model to start from in $ours/best: train it (bash $PROJECT/scripts/run_glue.sh -N $N -s $setting" \
      "--task $TASK --model_path ... --do_train --do_eval) or name one: TEACHER=/path/to/model"
  fi
  START=${MODEL:-$TEACHER}
}

check_task() { # ends with the list of tasks when TASK is none and no files of the user's own are named
  [ -z "${TRAIN_FILE:-}" ] || return 0
  "$PYTHON" -c 'import sys; sys.path.insert(0, sys.argv[2])
from prumux.data.tasks import get_task
from prumux.errors import guard
guard(lambda: get_task(sys.argv[1]) and None)' "$TASK" "$PROJECT" || exit $?
}

earlier_phase() { # earlier_phase SCRIPT ARGUMENTS...: what this run builds on, with the same Python and its own schedule
  env -u EPOCHS -u BATCH_SIZE -u EXTRA -u MODEL PRUMUX_INNER=1 PYTHON="$PYTHON" RECIPE="$RECIPE" bash "$PROJECT/scripts/$1" "${@:2}"
}

train_teacher() { # the embedded task's dense (N=1) or multiplexed model, from random weights
  say "training the $TASK model that is to be pruned"
  if [ "$N" = 1 ]; then
    earlier_phase run_glue.sh -N 1 -s baseline --task "$TASK" --config_name "$CONFIG"
  else
    earlier_phase run_glue.sh -N 1 -s baseline --task "$TASK" --config_name "$CONFIG" # in the place of a pretrained one
    if dense_teaches; then # copies of the dense model side by side
      earlier_phase run_glue.sh -N "$N" -s finetuning --task "$TASK"
    else
      earlier_phase run_glue.sh -N "$N" -s retrieval_pretraining --task "$TASK" --model_path "$OUTPUT_DIR/$TASK/dense/best"
      earlier_phase run_glue.sh -N "$N" -s finetuning --task "$TASK" --model_path "$OUTPUT_DIR/$TASK/retrieval_$N/best"
    fi
  fi
}

# common_arguments: ARGS with what every training run takes from the environment (see run_PruMUX.sh)
common_arguments() {
  ARGS=(--task_name "$TASK" --recipe "$RECIPE" --num_instances "$N")
  [ -z "${DATA_DIR:-}" ] || ARGS+=(--data_dir "$DATA_DIR")
  [ -z "${TRAIN_FILE:-}" ] || ARGS+=(--train_file "$TRAIN_FILE")
  [ -z "${VALIDATION_FILE:-}" ] || ARGS+=(--validation_file "$VALIDATION_FILE")
  [ -z "${EPOCHS:-}" ] || ARGS+=(--num_train_epochs "$EPOCHS" --max_steps -1) # a recipe may count in steps
  [[ ${BATCH_SIZE:-1} =~ ^[1-9][0-9]*$ ]] || fail "BATCH_SIZE counts groups, a whole number from 1 on, got '$BATCH_SIZE'"
  [ -z "${BATCH_SIZE:-}" ] || ARGS+=(--per_device_train_batch_size $((BATCH_SIZE * N)))
  [ -z "${SEED:-}" ] || ARGS+=(--seed "$SEED")
}

# recipe_value SECTION FLAG: what the recipe's section says (to name a folder by), as 3e-5 and not 3.0e-5
recipe_value() {
  { awk -v section="$1:" -v key="(^  |[{,] *)$2: *[^ ,}]+" '/^[^ #]/ {inside = $1 == section}
    inside && match($0, key) {value = substr($0, RSTART, RLENGTH); sub(/.*: */, "", value); print value; exit}' \
    "$RECIPE" 2>/dev/null || true; } | sed 's/\.0*e/e/'
}

# distillation_arguments: DISTILLATION, from set_teacher and parse_triple. What the command line doesn't say is the
# recipe's, where that has a dense teacher, else the paper's.
distillation_arguments() {
  DISTILLATION=(--distillation_path "$TEACHER")
  [ -z "$LAYER_ALPHA_GIVEN" ] && dense_teaches || DISTILLATION+=(--distill_layer_loss_alpha "$LAYER_ALPHA")
  [ -z "$CE_ALPHA_GIVEN" ] && dense_teaches || DISTILLATION+=(--distill_ce_loss_alpha "$CE_ALPHA")
  DISTILLATION+=(--layer_distill_version "$LAYER_DISTILL_VERSION")
}

# next_step TEXT COMMAND...: what to do after a run, as a line that can be pasted
next_step() {
  [ -z "${PRUMUX_INNER:-}" ] || return 0
  say "$1"
  shift
  local environment='' name
  for name in DATA_DIR TRAIN_FILE VALIDATION_FILE; do
    [ -z "${!name:-}" ] || environment+="$name=$(printf '%q' "${!name}") "
  done
  [ -z "$GIVEN_RECIPE" ] || environment+="RECIPE=$(printf '%q' "$GIVEN_RECIPE") "
  [ -z "$GIVEN_TEACHER" ] || [[ $* == *TEACHER=* ]] || environment+="TEACHER=$(printf '%q' "$GIVEN_TEACHER") "
  [ "$OUTPUT_DIR" = "$PROJECT/out" ] || environment+="OUTPUT_DIR=$(printf '%q' "$OUTPUT_DIR") "
  say "  $environment$*"
}
