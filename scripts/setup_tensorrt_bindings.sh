#!/usr/bin/env bash
# Puts TensorRT's real Python bindings of four versions (1 MB each, without TensorRT itself) under
# .venv/tensorrt-bindings: tests/tensorrt_bindings checks every call of ours against them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for version in 10.14.1.48.post1 10.15.1.29 10.16.1.11 11.4.0.106; do
    target=.venv/tensorrt-bindings/$version
    [ -d "$target/tensorrt_bindings" ] && continue
    .venv/bin/python -m pip install --quiet --no-deps --target "$target" \
        "tensorrt-cu13-bindings==$version" || echo "no bindings of TensorRT $version: tests skip them" >&2
done
