#!/usr/bin/env bash
# Sets up .venv, builds a River engine of SmolLM2-135M-Instruct and generates with it on the CPU.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
setup_venv build

engine=${1:-engine-demo}
echo "== river-trt build --model demo --out $engine"
.venv/bin/river-trt build --model demo --out "$engine" --force
echo "== river-trt inspect $engine"
.venv/bin/river-trt inspect "$engine"
echo "== river-trt run --engine $engine --chat --stats"
.venv/bin/river-trt run --engine "$engine" --chat --stats --max-new-tokens 96 \
    --prompt "Explain in three sentences why rivers meander."
echo "== OpenAI's API on 127.0.0.1:8000: .venv/bin/pip install -c constraints.txt -e '.[serve]'"
echo "   .venv/bin/river-trt serve $engine"
