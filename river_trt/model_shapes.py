"""Shapes that follow from a model's sizes, wherever the sizes are written down."""

from typing import Protocol


class Sizes(Protocol):
    """What the shapes of a layer follow from."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def qk_norms(self) -> bool: ...
    @property
    def sandwich_norms(self) -> bool: ...


def linear_shapes(sizes: Sizes) -> dict[str, tuple[int, int]]:
    """[out, in] of a layer's four linears."""
    q_size = sizes.num_heads * sizes.head_dim
    return {
        "qkv": (q_size + 2 * sizes.num_kv_heads * sizes.head_dim, sizes.hidden_size),
        "o": (sizes.hidden_size, q_size),
        "gate_up": (2 * sizes.intermediate_size, sizes.hidden_size),
        "down": (sizes.hidden_size, sizes.intermediate_size),
    }


def norm_sizes(sizes: Sizes) -> dict[str, int]:
    """Width of each of a layer's norms."""
    found = {"input_norm": sizes.hidden_size, "post_attention_norm": sizes.hidden_size}
    if sizes.sandwich_norms:
        found |= {
            "attention_out_norm": sizes.hidden_size,
            "mlp_out_norm": sizes.hidden_size,
        }
    if sizes.qk_norms:
        found |= {"q_norm": sizes.head_dim, "k_norm": sizes.head_dim}
    return found
