"""Memory that an engine of torch takes on a GPU, known before anything is loaded."""

from dataclasses import dataclass

from river_trt.errors import RiverError
from river_trt.manifest import Manifest, cache_slot_bytes

WORKSPACES = {"attention_workspace": 64 << 20, "gate_workspace": 1 << 20}  # bytes
# A prefill step's activations, in bytes of one hidden state: what is alive at once in a layer is
# its qkv, its MLP's both halves and a few hidden states.
HIDDEN_STATES = 16
BYTES_PER_LOGIT = 48  # logits, scores, weights and their sums in float64, as sampling needs them
LOGITS_OF_A_ROW = 6  # of a lossless verification of as many tokens as are drafted by default
KEPT_BYTES = 4 * 8  # a logit's, of the distributions that drafted tokens were drawn from
GRAPHS = 384 << 20  # recordings, and what the libraries keep
PREFILL_CHUNK = 512


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """In bytes."""

    weights: int  # of both banks and what they share
    cache: int
    work: int  # activations, sampling, recordings
    of_rows: int = 0  # what of the work grows with the rows: sampling

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.work


def gpu_memory(manifest: Manifest, weights_file: str, rows: int, cache_length: int) -> GpuMemory:
    """What an engine takes with a cache of so many rows and slots."""
    shape = manifest.model.shape
    activations = HIDDEN_STATES * PREFILL_CHUNK * shape.hidden_size * 2
    sampling = (BYTES_PER_LOGIT * LOGITS_OF_A_ROW + KEPT_BYTES) * rows * shape.vocab_size
    return GpuMemory(
        weights=manifest.files[weights_file].size,
        cache=rows * cache_length * cache_slot_bytes(manifest),
        work=activations + sampling + sum(WORKSPACES.values()) + GRAPHS,
        of_rows=sampling,
    )


def check_fits(needed: GpuMemory, free: int, rows: int, cache_length: int) -> None:
    """RiverError, with both sums, where the free memory of the GPU is too little."""
    if needed.total <= free:
        return
    if needed.weights + needed.work - needed.of_rows > free:
        remedy = "build it with fewer --lm-head-bits, or take a GPU with more memory"
    else:
        remedy = "lower max_seq_len or max_batch_size"
    raise RiverError(
        f"the engine needs {gigabytes(needed.total)} GB of the GPU's memory "
        f"({gigabytes(needed.weights)} weights, {gigabytes(needed.cache)} cache of {rows} rows of "
        f"{cache_length} slots, {gigabytes(needed.work)} to work in), and {gigabytes(free)} GB "
        f"are free; {remedy}"
    )


def gigabytes(count: int) -> str:
    """Of so many bytes, for people: 1.2."""
    return f"{count / 1e9:.1f}"
