"""The Dockerfile of an exported repository: the image and the packages that its backend needs.

Not run by river-trt's own tests, which read it instead: what it copies is there, and what it
installs by name exists.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from river_trt.manifest import Manifest
from river_trt.triton.local_server import ADMIN_APIS, ADMIN_HEADER, STACK_BYTES

TRITON = "nvcr.io/nvidia/tritonserver"
# The newest image of each kind that was known; 25.12 has CUDA 13 and TensorRT 10.14.1.
TRITON_IMAGE = f"{TRITON}:25.12-py3"
TRTLLM_IMAGE = f"{TRITON}:26.04-trtllm-python-py3"  # TensorRT-LLM 1.2.1
TENSORRT_IMAGE = "nvcr.io/nvidia/tensorrt:25.12-py3"  # has nvcc, for the plugin
COMPILER = (
    "apt-get update && apt-get install -y --no-install-recommends g++ \\\n"
    " && rm -rf /var/lib/apt/lists/*"
)
COMPILE_KERNELS = (
    "python3 -c 'from river_trt.native_library import native_library; native_library()'"
)
PLUGIN_FOLDER = "/opt/river-trt"
# As local_server.py starts it: a stack for JSON that nests deeply, and explicit control, so that a
# model whose worker died turns unready, with the management APIs closed to clients. Without
# RIVER_TRT_ADMIN_KEY nobody has the key.
SERVE = f"""\
CMD ulimit -S -s {STACK_BYTES // 1024}; \\
    key=${{RIVER_TRT_ADMIN_KEY:-$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n')}}; \\
    admin={ADMIN_APIS}:{ADMIN_HEADER}=$key; \\
    exec tritonserver --model-repository=/models --exit-on-error=false \\
        --model-control-mode=explicit --load-model='*' \\
        --http-restricted-api=$admin --grpc-restricted-protocol=$admin"""


@dataclass(frozen=True, slots=True)
class ServerImage:
    """What serves the engines of one backend."""

    base: str
    gpu: bool  # the engine is for one
    packages: tuple[str, ...] = ()  # from PyPI, beside river-trt
    native_kernels: bool = False  # compiled when the image is built
    needs_plugin: bool = False  # the TensorRT plugin library
    keeps_packages: bool = False  # the image's own versions stay: river-trt comes without its needs


def server_image(manifest: Manifest) -> ServerImage:
    """The image for an engine."""
    return IMAGES[manifest.backend.name](manifest)


def dockerfile(
    image: ServerImage, backend: str, models: Sequence[str], wheel: str, plugin: str | None
) -> str:
    """The text. wheel and plugin: names of files beside the Dockerfile; plugin None: compile it."""
    lines = [
        f"# Engines of the backend {backend}. Written by `river-trt triton export --docker`.",
        "# Not run by river-trt's own tests.",
        "# docker build -t river-trt-server . && docker run --rm -p 8000-8002:8000-8002 \\",
        f"#     --shm-size=1g {'--gpus all ' if image.gpu else ''}river-trt-server",
    ]
    if image.needs_plugin and plugin is None:
        lines += [
            f"FROM {TENSORRT_IMAGE} AS plugin",
            f"COPY {wheel} /tmp/",
            f"RUN pip install --no-cache-dir /tmp/{wheel} cmake \\",
            " && river-trt plugin build --out /plugin.so",
            "",
        ]
    lines.append(f"FROM {image.base}")
    if image.native_kernels:
        lines.append(f"RUN {COMPILER}")
    lines.append(f"COPY {wheel} /tmp/")
    packages = " ".join(f'"{package}"' for package in image.packages)
    alone = " --no-deps" if image.keeps_packages else f" {packages}".rstrip()
    lines.append(f"RUN pip install --no-cache-dir /tmp/{wheel}{alone}")
    if image.keeps_packages and packages:
        lines.append(f"RUN pip install --no-cache-dir {packages}")
    if image.native_kernels:
        lines.append(f"RUN {COMPILE_KERNELS}")
    if image.needs_plugin:
        place = f"{PLUGIN_FOLDER}/{plugin or 'plugin.so'}"
        source = f"--from=plugin /plugin.so {place}" if plugin is None else f"{plugin} {place}"
        lines += [f"COPY {source}", f"ENV RIVER_TRT_PLUGIN={place}"]
    lines += [f"COPY {model} /models/{model}" for model in models]
    lines.append(SERVE)
    return "\n".join(lines) + "\n"


def backend_of(text: str) -> str | None:
    """The backend that a Dockerfile of ours is for."""
    match = re.match(r"# Engines of the backend ([\w-]+)\.", text)
    return match[1] if match else None


def _onnxruntime(manifest: Manifest) -> ServerImage:
    return ServerImage(TRITON_IMAGE, False, native_kernels=manifest.backend.kernels == "native")


def _torch(manifest: Manifest) -> ServerImage:
    version = manifest.backend.version.split("+")[0]
    on_cpu = manifest.backend.target == "cpu"
    return ServerImage(
        TRITON_IMAGE, not on_cpu, (f"torch=={version}", "safetensors"), native_kernels=on_cpu
    )


def _tensorrt(manifest: Manifest) -> ServerImage:
    """Both libraries: a backend is called as its package is, less the CUDA version."""
    backend = manifest.backend
    packages = (f"{backend.name}-cu13=={backend.version}", "cuda-python>=13")
    return ServerImage(TRITON_IMAGE, True, packages, needs_plugin=backend.mode == "plugin")


def _tensorrt_llm(manifest: Manifest) -> ServerImage:
    return ServerImage(
        TRTLLM_IMAGE, True, ("jinja2", "tokenizers", "rich"), needs_plugin=True, keeps_packages=True
    )


IMAGES: dict[str, Callable[[Manifest], ServerImage]] = {
    "onnxruntime": _onnxruntime,
    "aotinductor": _torch,
    "torch": _torch,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt,
    "tensorrt-llm": _tensorrt_llm,
}
