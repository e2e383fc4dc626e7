"""What one token reads of a layer, from the sizes of an engine's weights by name."""


def mean_layer_bytes(layers: dict[str, int], parts: tuple[str, ...], num_layers: int) -> int:
    """Mean over layers of the tensors whose names end with one of the parts.

    Layers of a model are alike, but the first has no river: count the layers that have it.
    """
    chosen = [(name, size) for name, size in layers.items() if name.endswith(parts)]
    holders = {name.split(".")[1] for name, _ in chosen if not name.endswith("norm.weight")}
    return sum(size for _, size in chosen) // max(1, len(holders) or num_layers)
