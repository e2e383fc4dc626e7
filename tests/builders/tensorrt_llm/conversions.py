"""Checkpoints of tiny models, and the torch reference of the same numbers."""

import re
from pathlib import Path

import torch

from builders.build import BuildOptions, build
from builders.calibration_text import read_calibration
from builders.decoder import RiverDecoder
from builders.quantisers import make_quantiser
from builders.river_bank import load_decoder, river_format
from builders.source import ModelSource
from river_trt.policy_file import PolicyFile
from river_trt.spec import ExitPolicy

GROUP = 32
POSITIONS = 128


def convert(
    model: Path | str,
    out: Path,
    ranks: int = 1,
    policy: ExitPolicy | None = None,
    quantiser: str = "rtn",
    symmetric: bool = False,
    group_size: int = GROUP,
    **options,
) -> Path:
    """`river-trt convert` of a saved model, in float16 asked for by name: Gemma wants that."""
    options.setdefault("dtype", "float16")
    if policy is not None:
        source = ModelSource.open(str(model))
        saved = out.with_suffix(".policy.json")
        out.parent.mkdir(exist_ok=True)
        PolicyFile("a model", source.config_sha256, "a test", policy).write(saved)
        options["policy"] = saved
    build(
        BuildOptions(
            str(model),
            out,
            calibrate=False,
            backend="tensorrt-llm-checkpoint",
            quantiser=quantiser,
            group_size=group_size,
            symmetric=symmetric,
            tensor_parallel=ranks,
            **options,
        )
    )
    return out


def reference(
    model: Path | str, quantiser: str = "rtn", symmetric: bool = False, group_size: int = GROUP
) -> RiverDecoder:
    """The decoder with its numbers rounded to float16, as a checkpoint stores them."""
    source = ModelSource.open(str(model))
    made = make_quantiser(quantiser, group_size, symmetric)
    river = river_format(source.config, made, group_size, symmetric)
    ids = read_calibration(Path("none"), source.config, None).token_ids
    decoder = load_decoder(source, made, river, POSITIONS, ids)
    for name, value in list(decoder.named_buffers(remove_duplicate=False)):
        if value.dtype == torch.float32 and "rotary" not in name and name != "query_scale":
            path, _, last = name.rpartition(".")
            factor = _rotary_factor(decoder, name, value)
            setattr(decoder.get_submodule(path), last, (value * factor).half().float() / factor)
    return decoder


def _rotary_factor(decoder: RiverDecoder, name: str, value: torch.Tensor) -> torch.Tensor:
    """What the rows of q and k are multiplied by before they are rounded; 1 for all else."""
    ones = torch.ones(len(value))
    match = re.fullmatch(r"layers\.(\d+)\.self_attn\.qkv_proj\.(weight|scales|bias)", name)
    config = decoder.config
    rope = config.layers[int(match[1])].rope if match else None
    if rope is not None:
        rows = ones.view(-1, config.head_dim)[: config.num_heads + config.num_kv_heads]
        rows[:, : 2 * len(config.ropes[rope].inv_freq)] = config.ropes[rope].factor
    return ones.view(-1, *[1] * (value.ndim - 1))
