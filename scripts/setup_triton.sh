#!/usr/bin/env bash
# Makes .venv-triton: the runtime, tritonserver, and the numpy 1 that its Python backend needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-.venv/bin/python}
stamp=.venv-triton/.river-trt-setup
wanted=$(cat pyproject.toml constraints.txt | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
echo "installing into .venv-triton ..."
[ -x .venv-triton/bin/python ] || "$python" -m venv .venv-triton
pip() { .venv-triton/bin/python -m pip install --quiet "$@"; }
# All pins but numpy's: the server's Python backend knows numpy 1 only, builders want numpy 2.
pip -c <(grep -v '^numpy==' constraints.txt) -e . "numpy<2"
# Only its files are wanted, not the clients and the framework that it depends on.
pip --no-deps nvidia-pytriton==0.7.0
echo "$wanted" >"$stamp"
