"""One arm of scripts/measure_vllm.py: loads a model, then answers each line on stdin.

again      measure once: seconds of a prompt, of the tokens after it, mean backbone layers
profile    vLLM only: milliseconds of a decode step by part, and by torch operator
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Measured = dict[str, Any]
Answers = dict[str, Callable[[], Measured]]


def vllm_arm(spec: dict[str, Any]) -> Answers:
    import torch
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

    def profile() -> Measured:
        steps = spec["new_tokens"]
        parts = llm.apply_model(_PartTimes)[0]
        whole = generate(steps)
        forward, logits = parts.end()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            generate(steps)
        operators = {
            event.key: (event.self_cpu_time_total / 1e3 / steps, event.count / steps)
            for event in found.key_averages()
        }
        each = {"step": whole, "forward": forward, "logits": logits}
        return {name: 1e3 * t / steps for name, t in each.items()} | {"operators": operators}

    return {"again": measure, "profile": profile}


class _PartTimes:
    """Times every call of a model's forward and compute_logits until `end`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._seconds = dict.fromkeys(("forward", "compute_logits"), 0.0)
        for name in self._seconds:
            setattr(model, name, self._timed(name, getattr(model, name)))

    def end(self) -> list[float]:
        """Seconds in each, all calls together."""
        for name in self._seconds:
            delattr(self._model, name)
        return list(self._seconds.values())

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            found = call(*args, **options)
            self._seconds[name] += time.perf_counter() - start
            return found

        return timed


def _layers(model: Any, prompt: int) -> float:
    """Mean exit layer of the generated tokens; of vLLM's own class all layers."""
    policies = getattr(model, "policies", None)
    if policies is None:
        return float(model.config.num_hidden_layers)
    layers = [layer for position, layer in policies.traces["it"].items() if position >= prompt]
    policies.traces.clear()
    return sum(layers) / len(layers)


def engine_arm(spec: dict[str, Any]) -> Answers:
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

    return {"again": measure}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=json.loads, help="the arm, as JSON")
    spec = parser.parse_args(argv).spec
    answers = (vllm_arm if "vllm" in spec else engine_arm)(spec)
    print("measured", json.dumps(answers["again"]()), flush=True)
    for line in sys.stdin:
        print("measured", json.dumps(answers[line.strip()]()), flush=True)


if __name__ == "__main__":
    main()
