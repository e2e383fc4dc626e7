"""Model families, found by the architecture that config.json names."""

from typing import Any

from builders.families.base import Family, ModelConfig, WeightNames
from builders.families.llama import LLAMA
from river_trt.errors import CheckpointError

__all__ = ["Family", "ModelConfig", "WeightNames", "family_of"]

FAMILIES = (LLAMA,)


def family_of(config: dict[str, Any]) -> Family:
    """The family of a config.json; CheckpointError lists the supported architectures."""
    architectures = config.get("architectures") or ["unnamed"]
    by_architecture = {name: family for family in FAMILIES for name in family.architectures}
    if architectures[0] not in by_architecture:
        raise CheckpointError(
            f"architecture {architectures[0]} is not supported; "
            f"supported: {', '.join(sorted(by_architecture))}"
        )
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "an unnamed method")
        raise CheckpointError(
            f"the checkpoint is already quantised ({method}); the backbone needs the original"
        )
    return by_architecture[architectures[0]]
