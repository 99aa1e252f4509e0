#!/usr/bin/env bash
# Set-up with the test tools, then lint, format check, type check and all tests. No network after the install.
#   bash scripts/test.sh [arguments of pytest, such as tests/pruning -x, or -m "not slow"]
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
case ${1:-} in -h | --help) usage; exit 0 ;; esac

setup test
cd "$PROJECT"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false MPLBACKEND=Agg
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 # two workers share the cores
run -m ruff check --quiet .
run -m ruff format --check .
run -m mypy
run -m pytest -n 2 --dist worksteal "$@"
