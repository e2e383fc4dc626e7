"""Makes `tensorrt` and `tensorrt_llm` importable as the double, and takes them away again."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

from tests.builders.tensorrt_llm.double import builder, executor, functional, modeling, network
from tests.builders.tensorrt_llm.double.plugins import tensorrt_module

# What imports tensorrt_llm.
OURS = ("attention", "config", "layers", "model", "plugins", "trtllm_build")


@contextmanager
def installed() -> Iterator[ModuleType]:
    """The double's `tensorrt`; builders.tensorrt_llm.model is fresh inside and gone after."""
    tensorrt = tensorrt_module()
    modules = {
        "tensorrt": tensorrt,
        "tensorrt_llm": _module("tensorrt_llm"),
        "tensorrt_llm._common": _of(network, "default_net", "default_trtnet"),
        "tensorrt_llm._utils": _module("_utils", get_sm_version=lambda: 90),
        "tensorrt_llm.functional": functional,
        "tensorrt_llm.layers": _of(
            modeling,
            "AttentionParams",
            "ColumnLinear",
            "Embedding",
            "KeyValueCacheParams",
            "RmsNorm",
        ),
        "tensorrt_llm.module": _of(modeling, "Module", "ModuleList"),
        "tensorrt_llm.parameter": _of(modeling, "Parameter"),
        "tensorrt_llm.models": _of(modeling, "MODEL_MAP"),
        "tensorrt_llm.models.modeling_utils": _of(
            modeling, "DecoderModelForCausalLM", "PretrainedConfig"
        ),
        "tensorrt_llm.builder": _of(builder, "BuildConfig", "build"),
        "tensorrt_llm.bindings": _module("bindings", KVCacheType=builder.BindingsKVCacheType),
        "tensorrt_llm.bindings.executor": executor,
    }
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    _forget_ours()
    sys.modules.update(modules)
    sys.modules["tensorrt_llm.bindings"].executor = executor
    try:
        yield tensorrt
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(before)
        _forget_ours()
        modeling.MODEL_MAP.clear()


def _forget_ours() -> None:
    import builders.tensorrt_llm as package

    for name in OURS:
        sys.modules.pop(f"builders.tensorrt_llm.{name}", None)
        package.__dict__.pop(name, None)


def _module(name: str, **members) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []
    module.__spec__ = ModuleSpec(name, None)  # torch asks for it
    module.__dict__.update(members)
    return module


def _of(source: ModuleType, *names: str) -> ModuleType:
    return _module(source.__name__, **{name: getattr(source, name) for name in names})
