#!/usr/bin/env bash
# Trains or evaluates a dense or multiplexed model with run_glue.py. Usage: run_glue.sh [options] [-- flags of run_glue.py]
#   -N, --num_instances N    inputs mixed into one (default 1 for baseline, else 2)
#   -s, --setting SETTING    baseline, retrieval_pretraining, mlm_pretraining or finetuning (default)
#   -d, --demuxing VARIANT   index_pos (or rsa), index, mlp
#   -m, --muxing VARIANT     gaussian_hadamard, binary_hadamard, random_ortho, random_ortho_low_rank or contextual
#   --task TASK              GLUE task, NER, toy or toy-nli (default toy; of run_ner.sh NER); in pretraining of a given
#                            model also plain text: the .txt of TRAIN_FILE, else wikitext from the hub
#   --lr LR                  learning rate
#   --batch_size B           groups per batch, after multiplexing: a batch holds B*N inputs
#   --config_name FILE       architecture, such as configs/models/bert_base.json (weights start at random)
#   --model_path MODEL       weights to start from: folder or hub name (default of multiplexed models: out/TASK/dense/best,
#                            which also teaches them; not with RECIPE=configs/recipes/paper.yaml)
#   --learn_muxing           train the multiplexing vectors
#   --do_train, --do_eval    what to do; both when neither is given
#   --data_dir DIR           folder in GLUE's own file layout (environment: DATA_DIR)
#   --output_dir DIR         this run's folder (default out/TASK/dense, retrieval_N, mlm_N or mux_N)
#   -h, --help
# What is not given comes from the recipe (environment: RECIPE, default configs/recipes/prumux.yaml).
# Environment: OUTPUT_DIR (root, default out), TRAIN_FILE, VALIDATION_FILE, EPOCHS, BATCH_SIZE, SEED,
#   TEACHER (of -s finetuning; default out/TASK/dense/best for N > 1), EXTRA (flags passed on).
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

N='' SETTING=finetuning TASK=${DEFAULT_TASK:-toy} RUN_DIR='' MODEL_GIVEN='' TASK_GIVEN=${DEFAULT_TASK:-}
FLAGS=() DO=()
while [ $# -gt 0 ]; do
  option=$1
  case $option in
    -h | --help) usage; exit 0 ;;
    --learn_muxing) FLAGS+=(--learn_muxing) ;;
    --do_train | --do_eval) DO+=("$option") ;;
    --) shift; break ;;
    -N | --num_instances | -d | --demuxing | -m | --muxing | -s | --setting | --task | --lr | --batch_size | \
      --config_name | --model_path | --data_dir | --output_dir)
      [ $# -ge 2 ] && [ -n "$2" ] || fail "$option needs a value: see bash $0 --help"
      value=$2
      shift
      case $option in
        -N | --num_instances) N=$value ;;
        -d | --demuxing) FLAGS+=(--demuxing_variant "$value") ;;
        -m | --muxing) FLAGS+=(--muxing_variant "$value") ;;
        -s | --setting) SETTING=$value ;;
        --task) TASK=$(canonical_task "$value") TASK_GIVEN=1 ;;
        --lr) FLAGS+=(--learning_rate "$value") ;;
        --batch_size) BATCH_SIZE=$value ;;
        --config_name)
          [ -e "$value" ] || [ ! -e "$PROJECT/$value" ] || value=$PROJECT/$value # configs/... from any folder
          FLAGS+=(--config_name "$value") MODEL_GIVEN=1
          ;;
        --model_path) FLAGS+=(--model_name_or_path "$value") MODEL_GIVEN=1 ;;
        --data_dir) DATA_DIR=$value ;;
        --output_dir) RUN_DIR=$value ;;
      esac
      ;;
    *) fail "unknown option '$option': see bash $0 --help (flags of run_glue.py go after --)" ;;
  esac
  shift
done
[ "${#DO[@]}" -gt 0 ] || DO=(--do_train --do_eval)

if [ -z "$TASK_GIVEN" ] && [[ $SETTING == *_pretraining ]] && [[ -n $MODEL_GIVEN || ${TRAIN_FILE:-} == *.txt ]]; then
  if [ -n "${TRAIN_FILE:-}" ]; then TASK=corpus; else TASK=wikitext; fi # plain text, before any task is known
fi
case $SETTING in
  baseline) N=${N:-1} name=dense ;;
  retrieval_pretraining) N=${N:-2} name=retrieval_$N ;;
  mlm_pretraining) N=${N:-2} name=mlm_$N ;;
  finetuning) N=${N:-2} name=mux_$N ;;
  *) fail "unknown setting '$SETTING': choose baseline, retrieval_pretraining, mlm_pretraining or finetuning" ;;
esac
[[ $N =~ ^[1-9][0-9]*$ ]] || fail "-N must be a whole number from 1 on, got '$N'"
[[ ${BATCH_SIZE:-1} =~ ^[1-9][0-9]*$ ]] || fail "--batch_size must be a whole number from 1 on, got '$BATCH_SIZE'"
[ "$SETTING" != baseline ] || [ "$N" = 1 ] || fail "the baseline has no multiplexing: -N $N needs -s finetuning"
[ "$SETTING-$N" != finetuning-1 ] || name=dense
RUN_DIR=${RUN_DIR:-$OUTPUT_DIR/$TASK/$name}
set_recipe "$TASK"
dense=$(teacher_dir "$TASK" 1)/best
if [ "$SETTING" = finetuning ] && [ "$N" != 1 ] && dense_teaches; then
  if [ -e "$dense/config.json" ] || { [ -n "${PRUMUX_DRY_RUN:-}" ] && is_embedded "$TASK"; }; then
    start=$dense TEACHER=${TEACHER:-$dense}
  else
    start=${TEACHER:-} # a student starts as copies of the one that teaches it
  fi
  if [ -z "$MODEL_GIVEN" ] && [ -n "$start" ]; then FLAGS+=(--model_name_or_path "$start") MODEL_GIVEN=1; fi
fi
if [ "$SETTING" = finetuning ] && [ -n "${TEACHER:-}" ]; then FLAGS+=(--distillation_path "$TEACHER"); fi
[ -n "$MODEL_GIVEN" ] || [ -z "${CONFIG:-}" ] || FLAGS+=(--config_name "$CONFIG")
if [ "$N" != 1 ] && [ -z "$MODEL_GIVEN${CONFIG:-}${PRUMUX_DRY_RUN:-}" ] && [[ "${EXTRA:-} $*" != *--model* ]]; then
  setup
  check_task
  fail "no model to start from, $dense is not there: train it (bash $PROJECT/scripts/${PROGRAM_SCRIPT:-run_glue.sh} -N 1 -s baseline" \
    "--task $TASK --model_path bert-base-uncased) or name one: --model_path FOLDER_OR_HUB_NAME"
fi

setup
common_arguments
# shellcheck disable=SC2086  # EXTRA holds several flags
run "$PROJECT/${PROGRAM:-run_glue.py}" --setting "$SETTING" "${ARGS[@]}" ${FLAGS[@]+"${FLAGS[@]}"} "${DO[@]}" \
  --output_dir "$RUN_DIR" ${EXTRA:-} "$@"

case $TASK in corpus | wikitext) TASK=TASK TRAIN_FILE='' VALIDATION_FILE='' ;; esac # for the hint: any task
case $SETTING in
  *_pretraining) next_step "trained: $RUN_DIR/best. Next, finetune it:" \
    "bash $PROJECT/scripts/${PROGRAM_SCRIPT:-run_glue.sh} -N $N -s finetuning --task $TASK --model_path $RUN_DIR/best" ;;
  *)
    start='' # where it is looked for anyway
    if [ "$RUN_DIR" != "$OUTPUT_DIR/$TASK/$name" ]; then
      if [ "$N" != 1 ] && dense_teaches; then start="MODEL=$RUN_DIR/best "; else start="TEACHER=$RUN_DIR/best "; fi
    fi
    next_step "done: $RUN_DIR. Next, prune it:" "${start}bash $PROJECT/scripts/run_PruMUX.sh $TASK 0.60 $N" ;;
esac
