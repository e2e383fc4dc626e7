#!/usr/bin/env bash
# Formats all Python, C++ and CUDA; with --check changes nothing and fails where it would.
# Needs the .venv that scripts/test.sh makes.
set -euo pipefail
cd "$(dirname "$0")/.."

sources() {
    find plugins tests -type f \
        \( -name '*.h' -o -name '*.cc' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0
}
case "${1:-}" in
--check)
    .venv/bin/ruff format --check .
    sources | xargs -0 .venv/bin/clang-format --dry-run --Werror
    ;;
"")
    .venv/bin/ruff format .
    sources | xargs -0 .venv/bin/clang-format -i
    ;;
*)
    echo "usage: scripts/format.sh [--check]" >&2
    exit 2
    ;;
esac
