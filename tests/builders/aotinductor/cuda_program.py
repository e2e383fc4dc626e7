"""The GPU's program on the CPU: over the kernels' shim, as a session with a double for its graphs.

usage: cuda_program.py LIBRARY MODEL_DIRECTORY. The library registers itself for the whole process.
Prints `same` where every policy gives what the torch reference gives, within bfloat16.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))

from builders.aotinductor.cuda import CudaDevice
from builders.aotinductor.program import rewrite
from builders.position_tables import position_tables
from builders.quantisers import make_quantiser
from builders.reference import teacher_forced
from builders.river_bank import load_decoder, river_format, stream_layers
from builders.source import ModelSource
from builders.tracing import trace
from river_trt.backends.base import SessionOptions, Step
from river_trt.backends.torch.fakes import register_fakes
from river_trt.backends.torch.graphs import Outputs, Recording
from river_trt.backends.torch.session import TorchSession
from river_trt.spec import ExitPolicy, ModelShape
from scripts.research.eager import runner
from tests.builders.tiny_engines import forced_exit

MAX_SEQ_LEN, GROUP_SIZE, BATCH, PROMPT, TOKENS = 64, 32, 2, 5, 9
TOLERANCE = 0.05  # bfloat16 through four layers of large random weights; see BANKS_DIFFER
BANKS_DIFFER = 0.1


def main(library: str, model: str) -> int:
    source = ModelSource.open(model)
    config, layers = source.config, source.config.num_layers
    quantiser = make_quantiser("rtn", GROUP_SIZE, False)
    river = river_format(config, quantiser, GROUP_SIZE, False)
    reference = load_decoder(source, quantiser, river, MAX_SEQ_LEN)
    ids = np.random.default_rng(0).integers(3, config.vocab_size, (BATCH, TOKENS))
    policies = [ExitPolicy.full_depth(layers)]
    policies += [forced_exit(layers, layer) for layer in range(1, layers + 1)]
    policies.append(forced_exit(layers, 1, (2,)))
    expected = [teacher_forced(reference, ids, policy) for policy in policies]
    assert distance(expected[1][0], expected[0][0]) > BANKS_DIFFER, "a wrong bank must show"

    torch.ops.load_library(library)
    register_fakes("cuda")
    device = CudaDevice("both", config.tie_embeddings)
    program = rewrite(trace(config, river, MAX_SEQ_LEN), device)
    tensors = position_tables(config, MAX_SEQ_LEN) | device.shared_tensors(source.shared())
    for index, banks in enumerate(stream_layers(source, quantiser, source.shared())):
        tensors |= device.layer_tensors(index, banks)
    run = runner(program, tensors)
    fused = [n for n in program.module.graph.nodes if "fused_linear" in str(n.target)]
    # qkv and gate_up take a norm in, o and down a residual, gate_up its activation.
    assert [[bool(n.args[i]) for i in (8, 10, 11)] for n in fused[:4]] == [
        *([True, False, False], [False, False, True], [True, True, False], [False, False, True])
    ]

    recorded = []

    def record(step):
        recorded.append(step)
        outputs: Outputs = [value.clone() for value in step()]

        def replay() -> None:
            for kept, new in zip(outputs, step(), strict=True):
                kept.copy_(new)

        return Recording(replay, outputs)

    shape = ModelShape(
        *(layers, config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim),
        *(config.vocab_size, MAX_SEQ_LEN),
    )
    with torch.inference_mode():
        session = TorchSession(
            run,
            tensors,
            shape,
            SessionOptions(BATCH, MAX_SEQ_LEN),
            torch.device("cpu"),
            torch.bfloat16,
            record,
        )
        for policy, (logits, exit_layer) in zip(policies, expected, strict=True):
            check(session, ids, policy, logits, exit_layer)
    assert len(recorded) == 2, "one recording a span serves every policy and position"
    print("same")
    return 0


def check(
    session: TorchSession,
    ids: np.ndarray,
    policy: ExitPolicy,
    logits: np.ndarray,
    exit_layer: np.ndarray,
) -> None:
    """A prefill by the policy, then tokens one by one through the recording."""
    ends = [PROMPT, *range(PROMPT + 1, TOKENS + 1)]
    for start, end in zip([0, *ends], ends, strict=False):
        past = np.full(len(ids), start, np.int32)
        out = session.step(Step(ids[:, start:end], 0, past, np.array([end - start - 1]), policy))
        np.testing.assert_array_equal(out.exit_layer, exit_layer[:, start:end])
        error = distance(out.logits[:, 0], logits[:, end - 1])
        assert error < TOLERANCE, (start, policy.tau, error)


def distance(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
