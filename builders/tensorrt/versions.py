"""Every call that differs between TensorRT's versions, and between it and TensorRT-RTX.

FEATURES says what a version has; the rest of the builder asks the functions below and names no
version. A feature is looked for in the module itself, so a version that backports one has it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from river_trt.backends.tensorrt.library import LIBRARIES
from river_trt.errors import RiverError


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that not every version has."""

    name: str
    since: str  # TensorRT's version, and TensorRT-RTX's where it is another
    present: Callable[[Any], bool]  # of the module


FEATURES = {
    feature.name: feature
    for feature in (
        Feature("attention", "10.14", lambda trt: hasattr(trt.INetworkDefinition, "add_attention")),
        Feature(
            "kv_cache_update",
            "10.15",
            lambda trt: hasattr(trt.INetworkDefinition, "add_kv_cache_update"),
        ),
        Feature(
            "rotary_embedding",
            "10.15",
            lambda trt: hasattr(trt.INetworkDefinition, "add_rotary_embedding"),
        ),
        Feature(
            "aliased_plugin_io",
            "10.3",
            lambda trt: hasattr(trt.PreviewFeature, "ALIASED_PLUGIN_IO_10_03"),
        ),
        Feature(
            "strongly_typed_flag",
            "10.0",  # from 11.0 on networks are always strongly typed; the flag is still taken
            lambda trt: hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"),
        ),
        Feature(
            "explicit_targets",
            "TensorRT-RTX",  # TensorRT itself builds for the GPU that is there
            lambda trt: hasattr(trt.IBuilderConfig, "set_compute_capability"),
        ),
        Feature(
            "timing_cache",
            "10.0, not TensorRT-RTX",  # which has the calls and ignores them
            lambda trt: not hasattr(trt.IBuilderConfig, "set_compute_capability"),
        ),
        Feature(
            "hardware_compatibility",
            "10.0, not TensorRT-RTX",  # which ignores it too
            lambda trt: not hasattr(trt.IBuilderConfig, "set_compute_capability"),
        ),
    )
}
PORTABLE_NEEDS = ("attention", "kv_cache_update", "rotary_embedding")


def has(trt: Any, feature: str) -> bool:
    return FEATURES[feature].present(trt)


def require(trt: Any, backend: str, features: tuple[str, ...], what: str) -> None:
    """RiverError naming the first feature that `what` needs and this version lacks."""
    for name in features:
        if not has(trt, name):
            product = LIBRARIES[backend].product
            raise RiverError(
                f"{what} needs {name.replace('_', ' ')} of TensorRT {FEATURES[name].since}, "
                f"which {product} {trt.__version__} lacks; upgrade it, or choose another mode"
            )


def create_network(trt: Any, builder: Any) -> Any:
    """An empty network that keeps the types of its tensors."""
    flags = 0
    if has(trt, "strongly_typed_flag"):
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return builder.create_network(flags)


def buildable_targets(trt: Any) -> tuple[str, ...] | None:
    """Compute capabilities that the library builds for; None: that of the GPU that is there."""
    if not has(trt, "explicit_targets"):
        return None
    names = trt.ComputeCapability.__members__
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in names if name.startswith("SM"))


def check_target(trt: Any, backend: str, target: str, compute_capability: str) -> None:
    """RiverError where the library cannot build for that GPU at all."""
    known = buildable_targets(trt)
    if known is not None and compute_capability not in known:
        raise RiverError(
            f"{LIBRARIES[backend].product} {trt.__version__} does not build for target {target} "
            f"(compute capability {compute_capability}), only for {', '.join(known)}; "
            "use --backend tensorrt on a machine with that GPU"
        )


def set_target(trt: Any, config: Any, compute_capability: str) -> None:
    """Tell the builder which GPU the engine is for, where it does not ask the GPU itself."""
    if has(trt, "explicit_targets"):
        major, minor = compute_capability.split(".")
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{major}{minor}"), 0)


def alias_plugin_caches(trt: Any, config: Any) -> None:
    """Let plugins update their caches in place; without it the builder refuses them."""
    config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)


def allow_decomposition(trt: Any, network: Any) -> None:
    """Attention without a fused kernel is built from parts instead of failing the build."""
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type == getattr(trt.LayerType, "ATTENTION_OUTPUT", None):
            layer.__class__ = trt.IAttentionOutputLayer  # the bindings return the base class
            layer.attention.decomposable = True


def set_hardware_compatibility(trt: Any, backend: str, config: Any, level: str) -> None:
    if level == "none":
        return
    if not has(trt, "hardware_compatibility"):
        raise RiverError(
            f"{LIBRARIES[backend].product} ignores hardware_compatibility; leave it at none"
        )
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level.upper())


def plugin_name(trt: Any, layer: Any) -> str:
    """The plugin of a PLUGIN_V3 layer, as RiverGate."""
    layer.__class__ = trt.IPluginV3Layer
    core = layer.plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
    return str(core.plugin_name)
