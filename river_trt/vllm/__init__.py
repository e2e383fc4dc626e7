"""River models in vLLM: `pip install river-trt[vllm]`, then `vllm serve DIR` (docs/vllm.md).

DIR is a River checkpoint (river_trt/river_checkpoint.py). vLLM calls `register` in each of its
processes; the model class and what it needs are imported when a River checkpoint is served.
"""

import logging

from river_trt.errors import MissingDependencyError
from river_trt.river_checkpoint import ARCHITECTURE
from river_trt.vllm.versions import require_vllm

logger = logging.getLogger("vllm.river_trt")  # where vLLM's own messages go


def register() -> None:
    """Make the architecture RiverForCausalLM known to vLLM.

    Under a vLLM that was not tested nothing is registered, with a warning that names the range:
    other models are served all the same.
    """
    try:
        require_vllm()
    except MissingDependencyError as error:
        logger.warning("%s", error)
        return
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from river_trt.vllm.serving_config import RiverServingConfig

    if ARCHITECTURE not in MODELS_CONFIG_MAP:
        ModelRegistry.register_model(ARCHITECTURE, "river_trt.vllm.model:RiverForCausalLM")
        MODELS_CONFIG_MAP[ARCHITECTURE] = RiverServingConfig
