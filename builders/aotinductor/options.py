"""How an engine for AOTInductor, or a recorded program, is built."""

from dataclasses import dataclass

from builders.options import LM_HEAD_BITS, RIVER_ACTIVATION, BackendOptions, RiverActivation, option


@dataclass(frozen=True, slots=True)
class AOTInductorOptions(BackendOptions):
    river_activation: RiverActivation | None = option(None, **RIVER_ACTIVATION)
    lm_head_bits: int | None = option(None, **LM_HEAD_BITS)
