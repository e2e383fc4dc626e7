"""RiverConfig: TensorRT-LLM's PretrainedConfig with the section `river`."""

from typing import Any

from tensorrt_llm.models.modeling_utils import PretrainedConfig

from builders.tensorrt_llm.river_section import RiverSection


class RiverConfig(PretrainedConfig):
    """config.json of a River checkpoint or engine."""

    river: RiverSection

    def __init__(self, *, river: dict[str, Any], **values: Any) -> None:
        super().__init__(**values)
        self.river = RiverSection.from_dict(river)

    @staticmethod
    def create_runtime_defaults(defaults: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """As they stand in config.json: the C++ object made of them can't be copied or saved."""
        return defaults

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = super().to_dict()
        return values | {"river": self.river.to_dict()}
