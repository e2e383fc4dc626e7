"""Runs vLLM in its own environment: engines one after another, and what each gave, as JSON.

    .venv-vllm/bin/python tests/river_trt/vllm/driver.py CASES.json RESULTS.json

CASES.json is a list of {"name", "model", "engine": {...}, "batches": [[request, ...], ...]}; a
request is {"prompt": [ids], "max_tokens", "extra_args"}. The engine runs in this process, so that
its model can be asked for exit layers. An error of one case is its result.
"""

import gc
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # several ranks on few cores
os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # of take_traces, to other ranks

from vllm import LLM, SamplingParams

ENGINE = {
    "skip_tokenizer_init": True,
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 128,
    "max_num_seqs": 16,
    "disable_log_stats": True,
}


def run_case(case: dict) -> dict:
    llm = LLM(model=case["model"], **(ENGINE | case.get("engine", {})))
    try:
        batches = [run_batch(llm, batch) for batch in case["batches"]]
        return {"batches": batches, "preemptions": preemptions(llm)}
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def run_batch(llm: LLM, batch: list[dict]) -> list[dict]:
    params = [
        SamplingParams(
            temperature=0.0,
            max_tokens=request["max_tokens"],
            ignore_eos=True,
            detokenize=False,
            extra_args=(request.get("extra_args") or {}) | {"river_trace": str(index)},
        )
        for index, request in enumerate(batch)
    ]
    prompts = [{"prompt_token_ids": request["prompt"]} for request in batch]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    traces = llm.apply_model(take_traces)[0]
    return [
        {
            "token_ids": list(output.outputs[0].token_ids),
            "exit_layers": layers_of(traces.get(str(index), {}), request),
            "cached": output.num_cached_tokens,
        }
        for index, (output, request) in enumerate(zip(outputs, batch, strict=True))
    ]


def preemptions(llm: LLM) -> int:
    """Of an engine that keeps statistics."""
    if llm.llm_engine.log_stats is False:
        return 0
    (found,) = [m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions"]
    return int(found)


def take_traces(model) -> dict:
    """Of our class; vLLM's own has none."""
    policies = getattr(model, "policies", None)
    if policies is None:
        return {}
    traces = dict(policies.traces)
    policies.traces.clear()
    return traces


def layers_of(trace: dict[int, int], request: dict) -> list[int]:
    """Exit layers by position, from the prompt's last token on: one a generated token."""
    return [trace[position] for position in sorted(trace) if position >= len(request["prompt"]) - 1]


def main() -> None:
    cases, results = Path(sys.argv[1]), Path(sys.argv[2])
    found = {}
    for case in json.loads(cases.read_text()):
        try:
            found[case["name"]] = run_case(case)
        except Exception as error:
            found[case["name"]] = {"error": f"{type(error).__name__}: {error}"}
        results.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
