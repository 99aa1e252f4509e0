#!/usr/bin/env bash
# The main job on an embedded task, from a fresh clone to a table: set-up, finetune, prune, multiplex, prune both,
# evaluate. Minutes on two CPU cores, nothing downloaded but packages. Run again it skips what is done.
#   bash scripts/quickstart.sh [options of `prumux quickstart`, such as --output_dir DIR]
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

setup
run -m prumux quickstart "$@"
