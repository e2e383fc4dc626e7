"""The TensorRT-LLM backend, in two halves that run in two environments.

    model -- convert.py -> checkpoint: config.json, rank{r}.safetensors       any machine, river-trt[build]
    checkpoint -- model.py, trtllm-build -> rank{r}.engine                     TensorRT-LLM's container, a GPU

TensorRT-LLM 1.2 pins an older transformers and torch than river-trt[build] needs, so what runs in
its container (sizes, config, plugins, layers, model, engines, from_checkpoint) imports neither.
"""
