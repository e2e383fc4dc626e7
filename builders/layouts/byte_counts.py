"""What one token reads of each part, from the sizes of an engine's weights by name."""

from collections.abc import Mapping
from dataclasses import replace

from builders.job import Banks
from builders.layouts.panels import RIVER_HEAD
from river_trt.manifest import ByteCounts

# A weight is called <path>.<part>; a layout's own suffix (qweight_panels) says how it is stored.
RIVER_PARTS = ("qweight", "scales", "zero_points", "pre_scale", "int4", "offsets")
BACKBONE_PARTS = ("weight", "backbone_")
READ_INSTEAD = "norm.weight_pre_scaled"  # by a river, of the norm's own weight


def byte_counts(
    sizes: Mapping[str, int],  # bytes of each tensor of the engine
    num_layers: int,
    vocab_size: int,
    banks: Banks = "both",
    layers: str = "layers.",  # how the names of a layer's tensors begin
    embedding: str = "embedding",
    head: str = "lm_head",
) -> ByteCounts:
    """One layer of each bank, with the norms and biases that both banks read; head, embedding row.

    The mean over the layers that have the bank, as the first layer has no river. One bank alone
    stands for both; a head that is the embedding's table is read as the head all the same.
    """
    found: dict[str, dict[str, int]] = {"backbone": {}, "river": {}, "both": {}}
    for name, size in sizes.items():
        if name.startswith(layers) and not name.endswith(READ_INSTEAD):
            bank, layer = _bank(name), name.removeprefix(layers).partition(".")[0]
            found[bank][layer] = found[bank].get(layer, 0) + size
    shared = sum(found["both"].values()) // num_layers
    backbone, river = (
        sum(found[bank].values()) // max(1, len(found[bank])) + shared
        for bank in ("backbone", "river")
    )
    return ByteCounts(
        backbone_layer=river if banks == "river" else backbone,
        river_layer=backbone if banks == "backbone" else river,
        lm_head=sum(size for name, size in sizes.items() if name.startswith(head))
        or sizes[embedding],
        embedding=sizes[embedding] // vocab_size,
    )


def with_river_head(counts: ByteCounts, sizes: Mapping[str, int], frequent: int) -> ByteCounts:
    """The counts of an engine whose head has a river; frequent: bytes of the head that it reads."""
    own = sum(size for name, size in sizes.items() if name.startswith(RIVER_HEAD))
    return replace(counts, river_head=frequent + own, both_heads=counts.lm_head + own)


def _bank(name: str) -> str:
    """Whose a layer's tensor is: the backbone's, the river's or both banks'."""
    path, _, part = name.rpartition(".")
    if part.startswith("bias") or path.endswith("norm"):
        return "both"
    if part.startswith(RIVER_PARTS):
        return "river"
    assert part.startswith(BACKBONE_PARTS), f"{name} is of no bank"
    return "backbone"
