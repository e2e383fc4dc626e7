"""What a layer's linears are called, and how a backbone is stored."""

from dataclasses import dataclass

# Short names of a layer's parts to their paths in RiverDecoder.
MODULES = {
    "qkv": "self_attn.qkv_proj",
    "o": "self_attn.o_proj",
    "gate_up": "mlp.gate_up_proj",
    "down": "mlp.down_proj",
}


@dataclass(frozen=True, slots=True)
class BackboneFormat:
    """How the backbone's weights are stored."""

    bits: int  # 8, 16 or 32
    group_size: int  # of 8-bit ones
