"""What every backend's build takes, and the parts of it that do not depend on the backend."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

import river_trt
from builders.calibration_text import CalibrationText, read_calibration
from builders.checkpoints.text_files import eos_union
from builders.quantisers import make_quantiser
from builders.quantisers.base import Quantiser
from builders.quantisers.tuned import Tuned
from builders.recipes import Recipe
from builders.river_bank import LayerWatch
from builders.source import ModelSource
from builders.text import special_token_ids, write_text
from river_trt.engine_dir import hash_files, write_manifest
from river_trt.errors import RiverError
from river_trt.manifest import (
    BackendInfo,
    ByteCounts,
    DraftInfo,
    Manifest,
    ModelInfo,
    PolicyInfo,
    PrecisionInfo,
    RiverInfo,
    TextInfo,
)
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy, ModelShape
from river_trt.text import TOKENIZER_FILE

# One bank alone is a plain model, to measure the River engine against.
Banks = Literal["both", "backbone", "river"]


@dataclass(frozen=True, slots=True)
class BuildJob:
    """One build: a checked model, what to build for, and the directory to fill."""

    source: ModelSource
    recipe: Recipe
    policy: ExitPolicy
    directory: Path
    calibration_text: Path | None
    progress: Progress
    banks: Banks = "both"
    stored_policy: ExitPolicy | None = None  # that will replace `policy` in the manifest
    watch: LayerWatch | None = None  # shown each layer as it is quantised

    def quantiser(self) -> Quantiser:
        recipe = self.recipe
        return make_quantiser(recipe.quantiser, recipe.group_size, recipe.symmetric)

    def write_tokenizer(self) -> bool:
        """Into `directory`, and tried; False if the model has none."""
        return write_text(self.source.checkpoint, self.directory)

    def read_calibration(self, quantiser: Quantiser) -> CalibrationText | None:
        """The text that the quantiser looks at, through the tokenizer in `directory`."""
        if quantiser.needs_inputs:
            tokenizer = self.directory / TOKENIZER_FILE
            return read_calibration(
                tokenizer, self.source.config, self.calibration_text, isinstance(quantiser, Tuned)
            )
        if self.calibration_text is not None:
            raise RiverError(f"{quantiser.name} looks at no text; leave the calibration text out")
        return None

    def text_for_layers(self) -> Tensor:
        """Of quantisers that read none: what is pushed through the layers, [texts, tokens]."""
        tokenizer = self.directory / TOKENIZER_FILE
        return read_calibration(tokenizer, self.source.config, None).token_ids

    def write_manifest(
        self,
        backend: BackendInfo,
        precision: PrecisionInfo,
        calibration: CalibrationText | None,
        bytes_per_layer: ByteCounts,
        engine_file: str,
    ) -> Manifest:
        """Hash what `directory` holds by now and write its manifest.json."""
        self.progress("hashing", 0, 1)
        recipe = self.recipe
        text = self.source.checkpoint.text_info() if self.has_tokenizer else TextInfo()
        manifest = Manifest(
            river_trt_version=river_trt.__version__,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            model=self._model_info(text),
            backend=backend,
            precision=precision,
            river=RiverInfo(
                quantiser=recipe.quantiser,
                bits=4,
                group_size=recipe.group_size,
                symmetric=recipe.symmetric,
                calibration=calibration.source if calibration else None,
            ),
            policy=PolicyInfo.from_policy(self.policy),
            bytes_per_layer=bytes_per_layer,
            engine_file=engine_file,
            files=hash_files(self.directory),
            text=text,
            # The last layer is by far the most sensitive (docs/exit-policy.md).
            draft=DraftInfo(pinned=(self.source.config.num_layers,)),
        )
        write_manifest(self.directory, manifest)
        self.progress("hashing", 1, 1)
        return manifest

    @property
    def has_tokenizer(self) -> bool:
        return (self.directory / TOKENIZER_FILE).exists()

    def _model_info(self, text: TextInfo) -> ModelInfo:
        config, checkpoint = self.source.config, self.source.checkpoint
        shape = ModelShape(
            num_layers=config.num_layers,
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            vocab_size=config.vocab_size,
            max_seq_len=self.recipe.max_seq_len,
        )
        named = special_token_ids(self.directory, text) if self.has_tokenizer else {}
        ends = eos_union(*config.eos_token_ids, named.get("eos_token"))
        return ModelInfo(
            name=checkpoint.name,
            family=config.family,
            config_sha256=self.source.config_sha256,
            shape=shape,
            eos_token_ids=tuple(i for i in ends if i < config.vocab_size),  # what it can say
            bos_token_id=named.get("bos_token", checkpoint.config.get("bos_token_id")),
            has_tokenizer=self.has_tokenizer,
            num_parameters=self.source.num_parameters,
        )
