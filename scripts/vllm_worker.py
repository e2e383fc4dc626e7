"""One arm of scripts/measure_vllm.py: loads a model, then measures once for each line on stdin."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Measured = dict[str, float]


def vllm_arm(spec: dict[str, Any]) -> Callable[[], Measured]:
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=spec["vllm"],
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=256,
        max_num_seqs=1,
        enforce_eager=not spec.get("compile", False),
        enable_prefix_caching=False,
        disable_log_stats=True,
    )

    def generate(tokens: int) -> float:
        extra = spec.get("extra")
        if extra is not None:
            extra = extra | {"river_trace": "it"}
        params = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False, extra_args=extra
        )
        start = time.perf_counter()
        llm.generate([{"prompt_token_ids": spec["prompt"]}], params, use_tqdm=False)
        return time.perf_counter() - start

    def measure() -> Measured:
        first, whole = generate(1), generate(spec["new_tokens"])
        layers = llm.apply_model(lambda model: _layers(model, len(spec["prompt"])))[0]
        return {"first": first, "decode": whole - first, "layers": layers}

    return measure


def _layers(model: Any, prompt: int) -> float:
    """Mean exit layer of the generated tokens; of vLLM's own class all layers."""
    policies = getattr(model, "policies", None)
    if policies is None:
        return float(model.config.num_hidden_layers)
    layers = [layer for position, layer in policies.traces["it"].items() if position >= prompt]
    policies.traces.clear()
    return sum(layers) / len(layers)


def engine_arm(spec: dict[str, Any]) -> Callable[[], Measured]:
    import river_trt

    engine = river_trt.load(spec["engine"])

    def generate(tokens: int) -> tuple[float, Any]:
        config = river_trt.GenerationConfig(
            max_new_tokens=tokens,
            temperature=0.0,
            ignore_eos=True,
            tau=float(spec["tau"]),
            pinned=tuple(spec["pinned"]),
        )
        start = time.perf_counter()
        (result,) = engine.generate([spec["prompt"]], config)
        return time.perf_counter() - start, result.exit_layers[1:]

    def measure() -> Measured:
        first, _ = generate(1)
        whole, layers = generate(spec["new_tokens"])
        return {"first": first, "decode": whole - first, "layers": float(layers.mean())}

    return measure


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=json.loads, help="the arm, as JSON")
    spec = parser.parse_args(argv).spec
    measure = (vllm_arm if "vllm" in spec else engine_arm)(spec)
    print("measured", json.dumps(measure()), flush=True)
    for _ in sys.stdin:
        print("measured", json.dumps(measure()), flush=True)


if __name__ == "__main__":
    main()
