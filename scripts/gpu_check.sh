#!/usr/bin/env bash
# Everything that needs a GPU: the kernels, the torch operators, an engine built and run by the CLI,
# decode speed by depth beside torch's own, an AOTInductor package; with --full an engine's speed too.
#   scripts/gpu_check.sh [--quick | --full] [--only PART,PART] [--out DIR] [--dry-run]
# --quick takes under 4 minutes, --full 9. Needs python3 with torch, nvcc and cmake; nothing is
# installed. Writes DIR/gpu_check.json and .md anew after every step, and DIR/logs.
# --dry-run, for a machine without a GPU: compiles all of it and runs what the CPU shim can.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python3}" tests/gpu/check.py "$@"
