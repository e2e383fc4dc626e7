"""lm-evaluation-harness over HTTP scores as it does over the runtime itself."""

import json

import numpy as np
import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from builders.tasks.lm_eval_model import RiverLM
from river_trt import GenerationConfig

DATASET = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
metadata: {{version: 1}}
"""
TASKS = {
    "serve_choice": """
task: serve_choice
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: ["ab", "c", "def"]
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "serve_text": """
task: serve_text
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}]
""",
}


@pytest.fixture
def manager(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    random = np.random.default_rng(0)
    words = ["".join(chr(97 + c) for c in random.integers(0, 26, 9)) for _ in range(20)]
    records = {
        "serve_choice": [{"q": word, "gold": place % 3} for place, word in enumerate(words)],
        "serve_text": [{"text": f"{a} {b}"} for a, b in zip(words[:4], words[4:8], strict=True)],
    }
    for name, yaml in TASKS.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, records[name])))
        (tmp_path / f"{name}.yaml").write_text(yaml + DATASET.format(file=file))
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


def test_scores_are_the_runtimes(served, make_chat_engine, manager):
    def scores(model, **more):
        found = simple_evaluate(
            model=model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, **more
        )
        return {
            name: found["results"][name][metric]
            for name, metric in (
                ("serve_choice", "acc,none"),
                ("serve_text", "word_perplexity,none"),
            )
        }

    arguments = f"model=tiny,base_url={served.url}/v1/completions,max_length=90"
    over_http = scores("local-completions", model_args=arguments)
    runtime = RiverLM(make_chat_engine(), GenerationConfig(), lambda done, of: None)
    assert over_http == pytest.approx(scores(runtime), rel=1e-9)
    assert 0 < over_http["serve_choice"] < 1
