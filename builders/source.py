"""A model to build from: its checkpoint, read through its family, checked before any work."""

import hashlib
import json
import math
from dataclasses import dataclass

from builders.checkpoints import Checkpoint, open_checkpoint
from builders.checkpoints.text_part import text_part
from builders.families import Family, ModelConfig, family_of
from builders.weights import (
    LayerWeights,
    SharedWeights,
    check_names,
    read_layer,
    read_shared,
    with_stored_head,
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    checkpoint: Checkpoint
    family: Family
    config: ModelConfig

    @classmethod
    def open(cls, model: str) -> "ModelSource":
        """Whatever `--model` takes; CheckpointError if it is not a whole, supported model."""
        checkpoint = text_part(open_checkpoint(model))
        family = family_of(checkpoint.config)
        config = with_stored_head(checkpoint, family, family.read_config(checkpoint.config))
        check_names(checkpoint, family, config)
        return cls(checkpoint, family, config)

    def layer(self, index: int) -> LayerWeights:
        return read_layer(self.checkpoint, self.family, self.config, index)

    def shared(self) -> SharedWeights:
        return read_shared(self.checkpoint, self.family, self.config)

    @property
    def num_parameters(self) -> int:
        """Weights that the checkpoint stores."""
        shapes = (self.checkpoint.shape(name) for name in self.checkpoint.tensor_names)
        return sum(math.prod(shape) for shape in shapes)

    @property
    def config_sha256(self) -> str:
        """Hash of config.json's content, whatever its layout."""
        text = json.dumps(self.checkpoint.config, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
