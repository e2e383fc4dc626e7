#!/usr/bin/env bash
# Sets up .venv, lints, type-checks and runs every test. CI runs this.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
setup_venv test
./scripts/setup_triton.sh
./scripts/setup_tensorrt_bindings.sh
./scripts/setup_vllm.sh

.venv/bin/ruff check .
./scripts/format.sh --check
.venv/bin/mypy
# The plugin, the operators and their test programs. Without nvcc their tests say so and are skipped.
.venv/bin/python -m tests.plugins.native
# Two workers with one thread each: faster than one worker with two on small models.
export OMP_NUM_THREADS=1
.venv/bin/python -m pytest -n 2 --dist loadfile "$@"
