#!/usr/bin/env bash
# The torch operators compiled for sm_80 and sm_90 against another torch than the installed one:
#   scripts/check_torch_headers.sh 2.11.0 [WORK]      WORK: default build/torch-headers
# Fetches that torch's wheel from PyPI (half a gigabyte), keeps its headers and what is linked, runs
# nothing of it. By hand: the wheel is too large for every test run (docs/cuda.md has the last result).
# CI compiles them against the torch that it has.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version="${1:?usage: scripts/check_torch_headers.sh VERSION [WORK]}"
work="$(realpath -m "${2:-build/torch-headers}")/$version"
python="${PYTHON:-.venv/bin/python}"
mkdir -p "$work"
if [ ! -e "$work/torch/include/torch/library.h" ]; then
    PIP_CONSTRAINT="" "$python" -m pip download --quiet --no-deps --only-binary=:all: \
        "torch==$version" --dest "$work"
    unzip -q -o "$work"/torch-*.whl 'torch/include/*' 'torch/lib/libc10*.so' \
        'torch/lib/libtorch_cpu.so' -d "$work"
    rm "$work"/torch-*.whl
fi
cmake -S plugins -B "$work/build" -DRIVER_PARTS=torch -DTORCH_ROOT="$work/torch" \
    "-DCMAKE_CUDA_ARCHITECTURES=80-real;90-real"
cmake --build "$work/build" --target river_trt_torch --parallel
echo "the operators compile against torch $version, for sm_80 and sm_90: $work/build"
