"""River checkpoints, which vLLM serves through river_trt.vllm."""
