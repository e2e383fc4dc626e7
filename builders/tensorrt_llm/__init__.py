"""The TensorRT-LLM backend, in two halves that run in two environments.

    model -- convert.py --> checkpoint: config.json, rank{r}.safetensors   any machine, torch
    checkpoint -- model.py, engines.py --> rank{r}.engine    TensorRT-LLM's container, a GPU

TensorRT-LLM 1.2 pins an older transformers and torch than river-trt[build] needs, so what runs in
its container (river_section, config, plugins, layers, attention, model, engines, from_checkpoint)
imports neither.
"""
