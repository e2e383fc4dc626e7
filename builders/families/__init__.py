"""Model families, found by the architecture that config.json names."""

from typing import Any

from builders.checkpoints.text_part import TEXT_MODELS
from builders.families.base import Family, ModelConfig, WeightNames
from builders.families.gemma2 import GEMMA2
from builders.families.gemma3 import GEMMA3
from builders.families.llama import LLAMA
from builders.families.ministral3 import MINISTRAL3
from builders.families.mistral import MINISTRAL, MISTRAL
from builders.families.phi3 import PHI3
from builders.families.qwen2 import QWEN2
from builders.families.qwen3 import QWEN3
from builders.families.smollm3 import SMOLLM3
from river_trt.errors import CheckpointError

__all__ = ["Family", "ModelConfig", "WeightNames", "family_of"]

FAMILIES = (
    LLAMA,
    MISTRAL,
    MINISTRAL,
    MINISTRAL3,
    QWEN2,
    QWEN3,
    PHI3,
    SMOLLM3,
    GEMMA2,
    GEMMA3,
)


def family_of(config: dict[str, Any]) -> Family:
    """The family of a config.json; CheckpointError lists the supported architectures."""
    architectures = config.get("architectures") or ["unnamed"]
    by_architecture = {name: family for family in FAMILIES for name in family.architectures}
    if architectures[0] not in by_architecture:
        raise CheckpointError(
            f"architecture {architectures[0]} is not supported; "
            f"supported: {', '.join(sorted({*by_architecture, *TEXT_MODELS}))}"
        )
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "an unnamed method")
        raise CheckpointError(
            f"the checkpoint is already quantised ({method}); the backbone needs the original"
        )
    return by_architecture[architectures[0]]
