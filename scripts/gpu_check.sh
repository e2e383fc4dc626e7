#!/usr/bin/env bash
# Everything that needs a GPU, in one call of less than 9 minutes: the kernels, the torch operators,
# decode speed by depth beside torch's own, an AOTInductor package.
#   scripts/gpu_check.sh [--out DIR] [--dry-run]
# Needs python3 with torch, nvcc and cmake; nothing is installed. Writes DIR/gpu_check.json and .md.
# --dry-run compiles all of it and runs nothing, for a machine without a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python3}" tests/gpu/check.py "$@"
