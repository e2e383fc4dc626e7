import subprocess
import sys


def test_import_needs_no_build_library_and_no_backend():
    """Production imports river_trt: torch and the builders must never come with it."""
    code = (
        "import sys, river_trt\n"
        "names = {'torch', 'transformers', 'onnx', 'onnxruntime', 'builders', 'safetensors'}\n"
        "print(sorted(names & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
