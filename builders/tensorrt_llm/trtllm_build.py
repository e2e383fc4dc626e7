"""The file for `trtllm-build --model_cls_file`, with `--model_cls_name RiverForCausalLM`.

trtllm-build runs it as a module of another name before it reads config.json; the class comes from
its own module, so that worker processes find it too.
"""

from builders.tensorrt_llm.model import RiverForCausalLM

__all__ = ["RiverForCausalLM"]
