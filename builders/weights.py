"""Reads a checkpoint's weights into the decoder's layout, one layer at a time."""

import dataclasses
import warnings
from dataclasses import dataclass

import torch

from builders.checkpoints import Checkpoint
from builders.families import Family, ModelConfig
from river_trt.errors import CheckpointError, RiverWarning

# Left over from old exports; every reader computes it from the config.
TOLERATED_SUFFIX = ".rotary_emb.inv_freq"
NAMED_AT_MOST = 5


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """One decoder layer in float32; linears and biases are keyed qkv, o, gate_up, down."""

    linears: dict[str, torch.Tensor]  # each [out, in]
    biases: dict[str, torch.Tensor]  # each [out]; only the linears that have one
    norms: dict[str, torch.Tensor]  # the names and widths of ModelConfig.norm_sizes


@dataclass(frozen=True, slots=True, eq=False)
class SharedWeights:
    """What both banks and all layers share. Tied models hold one tensor twice."""

    embedding: torch.Tensor  # [vocab, hidden] stored dtype
    lm_head: torch.Tensor  # [vocab, hidden] stored dtype; `is embedding` when tied
    final_norm: torch.Tensor  # [hidden] float32


def read_layer(
    checkpoint: Checkpoint, family: Family, config: ModelConfig, layer: int
) -> LayerWeights:
    """Weights of one layer (0-based), as float32."""
    names = family.weights
    prefix = names.layer.format(layer=layer)

    def read(modules: tuple[str, ...], kind: str) -> torch.Tensor:
        parts = [_read(checkpoint, f"{prefix}.{module}.{kind}").float() for module in modules]
        return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts)

    return LayerWeights(
        linears={linear: read(modules, "weight") for linear, modules in names.linears.items()},
        biases={linear: read(names.linears[linear], "bias") for linear in config.biased_linears},
        norms={
            norm: read((names.norms[norm],), "weight") + names.norm_offset
            for norm in config.norm_sizes
        },
    )


def read_shared(checkpoint: Checkpoint, family: Family, config: ModelConfig) -> SharedWeights:
    """Embedding, LM head and final norm."""
    names = family.weights
    embedding = _read(checkpoint, f"{names.embedding}.weight")
    tied = config.tie_embeddings
    return SharedWeights(
        embedding=embedding,
        lm_head=embedding if tied else _read(checkpoint, f"{names.lm_head}.weight"),
        final_norm=_read(checkpoint, f"{names.final_norm}.weight").float() + names.norm_offset,
    )


def with_stored_head(checkpoint: Checkpoint, family: Family, config: ModelConfig) -> ModelConfig:
    """The config, untied where the checkpoint ties its LM head but stores another one.

    transformers uses what is stored, so that is used here, with a RiverWarning.
    """
    head, embedding = f"{family.weights.lm_head}.weight", f"{family.weights.embedding}.weight"
    both = {head, embedding} <= checkpoint.tensor_names
    if not config.tie_embeddings or not both or _equal(checkpoint, head, embedding):
        return config
    warnings.warn(
        f"the config of {checkpoint.name} ties its LM head to the embedding, but {head} differs: "
        "the stored one is used, as transformers does",
        RiverWarning,
        stacklevel=2,
    )
    return dataclasses.replace(config, tie_embeddings=False)


def check_names(checkpoint: Checkpoint, family: Family, config: ModelConfig) -> None:
    """CheckpointError unless the checkpoint holds exactly the tensors the config asks for.

    Shapes are checked too, from the headers alone. Tolerated: rotary frequencies, and an LM head
    in a tied checkpoint that equals the embedding.
    """
    names = family.weights
    expected = _expected_names(family, config)
    if missing := expected - checkpoint.tensor_names:
        raise CheckpointError(f"{checkpoint.name} lacks {_named(missing)}")
    lm_head = f"{names.lm_head}.weight"
    left_over = {
        name for name in checkpoint.tensor_names - expected if not name.endswith(TOLERATED_SUFFIX)
    }
    if config.tie_embeddings:
        left_over.discard(lm_head)  # equal to the embedding: see with_stored_head
    if left_over:
        raise CheckpointError(f"{checkpoint.name} holds unknown {_named(left_over)}")
    _check_shapes(checkpoint, family, config)


def _expected_names(family: Family, config: ModelConfig) -> set[str]:
    names = family.weights
    shared = [names.embedding, names.final_norm]
    if not config.tie_embeddings:
        shared.append(names.lm_head)
    expected = {f"{module}.weight" for module in shared}
    for layer in range(config.num_layers):
        prefix = names.layer.format(layer=layer)
        expected |= {f"{prefix}.{names.norms[norm]}.weight" for norm in config.norm_sizes}
        for linear, modules in names.linears.items():
            kinds = ("weight", "bias") if linear in config.biased_linears else ("weight",)
            expected |= {f"{prefix}.{module}.{kind}" for module in modules for kind in kinds}
    return expected


def _check_shapes(checkpoint: Checkpoint, family: Family, config: ModelConfig) -> None:
    names = family.weights
    hidden, vocab = config.hidden_size, config.vocab_size

    def check(modules: list[str], kind: str, expected: tuple[int, ...]) -> None:
        shapes = [checkpoint.shape(f"{module}.{kind}") for module in modules]
        stacked = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        if stacked != expected or any(shape[1:] != expected[1:] for shape in shapes):
            found = " + ".join(str(list(shape)) for shape in shapes)
            raise CheckpointError(
                f"{modules[0]}.{kind} has shape {found}, but config.json asks for {list(expected)}"
            )

    check([names.embedding], "weight", (vocab, hidden))
    check([names.final_norm], "weight", (hidden,))
    if not config.tie_embeddings:
        check([names.lm_head], "weight", (vocab, hidden))
    for layer in range(config.num_layers):
        prefix = names.layer.format(layer=layer)
        for norm, width in config.norm_sizes.items():
            check([f"{prefix}.{names.norms[norm]}"], "weight", (width,))
        for linear, (rows, columns) in config.linear_shapes.items():
            modules = [f"{prefix}.{module}" for module in names.linears[linear]]
            check(modules, "weight", (rows, columns))
            if linear in config.biased_linears:
                check(modules, "bias", (rows,))


def _read(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """A tensor of numbers; CheckpointError for one that holds NaN or infinity."""
    tensor = checkpoint.tensor(name)
    if not torch.isfinite(tensor).all():
        kind = "NaN" if torch.isnan(tensor).any() else "infinity"
        raise CheckpointError(
            f"{checkpoint.name}: {name} holds {kind}, so every text would; get the checkpoint again"
        )
    return tensor


def _equal(checkpoint: Checkpoint, left: str, right: str) -> bool:
    if checkpoint.shape(left) != checkpoint.shape(right):
        return False
    return torch.equal(checkpoint.tensor(left), checkpoint.tensor(right))


def _named(names: set[str]) -> str:
    listed = ", ".join(sorted(names)[:NAMED_AT_MOST])
    noun = "tensor" if len(names) == 1 else f"{len(names)} tensors"
    more = ", ..." if len(names) > NAMED_AT_MOST else ""
    return f"{noun} {listed}{more}"
