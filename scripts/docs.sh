#!/usr/bin/env bash
# Writes the API reference of river_trt, made from the docstrings, to build/api or the folder given.
# usage: scripts/docs.sh [FOLDER]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
[ -x .venv/bin/pdoc ] || setup_venv docs
.venv/bin/python -m scripts.api_reference "${1:-build/api}"
echo "open ${1:-build/api}/index.html"
