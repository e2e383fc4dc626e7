"""Serve an engine inside NVIDIA Triton Inference Server, through its Python backend."""
