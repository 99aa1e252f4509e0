#!/usr/bin/env bash
# run_glue.sh for words with tags: the same options and environment; the task is NER (CoNLL-2003 from the hub) unless
# --task names another, the data CoNLL files with --data_dir, or TRAIN_FILE and VALIDATION_FILE.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
case ${1:-} in -h | --help) awk 'NR > 1 && !/^#/ {exit} NR > 1 {sub(/^# ?/, ""); print}' "$0" ;; esac
PROGRAM=run_ner.py PROGRAM_SCRIPT=run_ner.sh DEFAULT_TASK=NER exec bash "$(dirname "$0")/run_glue.sh" "$@"
