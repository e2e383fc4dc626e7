"""What is checked of a River checkpoint before any worker starts, in the process that is called."""

from typing import Any, ClassVar

from vllm.config import VllmConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from river_trt.errors import RiverError
from river_trt.river_checkpoint import RiverCheckpoint
from river_trt.vllm import statistics
from river_trt.vllm.settings import Policy, Settings, request_policy
from river_trt.vllm.sharding import check_ranks

V1_REQUESTS = "river_trt.vllm.requests_v1:RiverRequests"
V2_REQUESTS = "river_trt.vllm.requests_v2:RiverRequests"


class RiverServingConfig(VerifyAndUpdateConfig):
    """vLLM calls it once a configuration, before the model is loaded."""

    # Of the model that this process serves: requests are checked against its layers.
    served: ClassVar[Policy | None] = None

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Raises RiverError, in one sentence, for what cannot be served."""
        checkpoint = read_checkpoint(vllm_config)
        settings = read_settings(vllm_config, checkpoint)
        check_ranks(checkpoint, vllm_config.parallel_config.tensor_parallel_size)
        if vllm_config.parallel_config.pipeline_parallel_size > 1:
            raise RiverError(
                "a River model is spread by tensor parallelism only; leave "
                "--pipeline-parallel-size out"
            )
        if vllm_config.speculative_config is not None:
            raise RiverError(
                "a River model takes no speculative_config: see docs/vllm.md, Lossless"
            )
        model = vllm_config.model_config
        if model.enable_prompt_embeds:
            raise RiverError("a River model takes token ids only; leave --enable-prompt-embeds out")
        RiverServingConfig.served = settings.policy
        requests = V2_REQUESTS if vllm_config.use_v2_model_runner else V1_REQUESTS
        others: list[Any] = list(model.logits_processors or [])
        if requests not in others:
            model.logits_processors = [*others, requests]
        statistics.create()

    @classmethod
    def check_request(cls, extra_args: dict[str, Any] | None) -> None:
        """ValueError for a request whose tau or pins are out of range; vLLM answers with it."""
        if cls.served is not None:
            request_policy(cls.served, extra_args)


def read_checkpoint(vllm_config: VllmConfig) -> RiverCheckpoint:
    """What config.json says of both banks; CheckpointError for a plain checkpoint and others."""
    model = vllm_config.model_config
    return RiverCheckpoint.from_config(getattr(model.hf_config, "river", None), str(model.model))


def read_settings(vllm_config: VllmConfig, checkpoint: RiverCheckpoint) -> Settings:
    return Settings.read(vllm_config.additional_config, checkpoint)
