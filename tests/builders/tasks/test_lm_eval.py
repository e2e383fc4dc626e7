"""The harness's own code over a tiny engine and tasks that lie on the disk: no data set hub."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.tasks import TaskRun, evaluate_task
from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.spec import ExitPolicy
from tests.builders.tiny_engines import build_pair

pytest.importorskip("lm_eval", reason='lm-eval is not installed: pip install "river-trt[evaluate]"')

CHOICES = ["w1 w2", "w3", "w4 w5 w6"]
QUESTIONS = [{"q": f"w{n} w{n + 1} w{n + 2}", "gold": n % 3} for n in range(6)]
TEXTS = [" ".join(f"w{(7 * n + start) % 100}" for n in range(30)) for start in range(3)]
DATASET = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
metadata: {{version: 1}}
"""
TASKS = {
    "tiny_choice": """
task: tiny_choice
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: ["w1 w2", "w3", "w4 w5 w6"]
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "tiny_text": """
task: tiny_text
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}]
""",
    "tiny_answer": """
task: tiny_answer
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
generation_kwargs: {until: ["never"], max_gen_toks: 3, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    directory = tmp_path_factory.mktemp("pair")
    # lm-eval needs an end-of-sequence token.
    return build_pair(directory, with_tokenizer=True, eos_token_id=99, bos_token_id=98).engine


@pytest.fixture(scope="module")
def task_path(tmp_path_factory, engine) -> Path:
    directory = tmp_path_factory.mktemp("tasks")
    answers = [engine.generate([q["q"]], _greedy(np.inf))[0].text for q in QUESTIONS[:4]]
    records = {
        "tiny_choice": QUESTIONS,
        "tiny_text": [{"text": text} for text in TEXTS],
        "tiny_answer": [{"q": q["q"], "a": a} for q, a in zip(QUESTIONS, answers, strict=False)],
    }
    for name, yaml in TASKS.items():
        file = directory / f"{name}.jsonl"
        file.write_text("\n".join(json.dumps(record) for record in records[name]))
        (directory / f"{name}.yaml").write_text(yaml + DATASET.format(file=file))
    return directory


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """`datasets` keeps what it reads: not in the user's home."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def _greedy(tau: float):
    from river_trt import GenerationConfig

    return GenerationConfig(max_new_tokens=3, tau=tau, pinned=())


def nats(engine: Engine, ids: list[int], policy: ExitPolicy) -> np.ndarray:
    """Log-probability of each token after the first, by one pass."""
    logits, _ = engine.forward(np.array([ids]), policy)
    log_p = torch.from_numpy(logits[0]).double().log_softmax(-1)
    return np.array([log_p[i, token].item() for i, token in enumerate(ids[1:])])


def run(engine: Engine, task_path: Path, name: str, **options):
    asked = TaskRun(task=f"lm-eval:{name}", task_path=task_path, **options)
    asked.check()
    return evaluate_task(engine, asked, lambda *_: None)


def test_multiple_choice_takes_the_likeliest(engine, task_path):
    scores = run(engine, task_path, "tiny_choice")
    policies = {
        "backbone": ExitPolicy.full_depth(4),
        "all river": ExitPolicy.uniform(4, -np.inf),
        "River": engine.policy,
    }
    assert [score.policy for score in scores] == [*policies]
    for score in scores:
        right = 0
        for question in QUESTIONS:
            context = engine.tokenizer.encode(question["q"])
            totals = []
            for choice in CHOICES:
                ids = [*context, *engine.tokenizer.encode(choice)]
                totals.append(nats(engine, ids, policies[score.policy])[len(context) - 1 :].sum())
            right += int(np.argmax(totals)) == question["gold"]
        assert score.score.value == pytest.approx(right / len(QUESTIONS))
        assert (score.metric, score.questions) == ("acc", len(QUESTIONS))
    assert scores[0].backbone_layers == 4 and scores[1].backbone_layers == 1


def test_rolling_perplexity(engine, task_path):
    scores = run(engine, task_path, "tiny_text")
    total = 0.0
    for text in TEXTS:
        ids = [98, *engine.tokenizer.encode(text)]
        total += nats(engine, ids, ExitPolicy.full_depth(4)).sum()
    words = sum(len(text.split()) for text in TEXTS)
    assert scores[0].score.value == pytest.approx(np.exp(-total / words), rel=1e-4)


def test_generation_is_the_engines(engine, task_path):
    """The answers are what the backbone generates: it is always right, the river is not."""
    backbone, river, _ = run(engine, task_path, "tiny_answer")
    assert backbone.score.value == 1.0
    assert river.score.value < 1.0


def test_limit(engine, task_path):
    assert [s.questions for s in run(engine, task_path, "tiny_choice", limit=2)] == [2, 2, 2]


def test_unknown_task(engine, task_path):
    with pytest.raises(RiverError, match="lm-eval knows no task 'nothing'; its tasks are listed"):
        run(engine, task_path, "nothing")


def test_data_that_cannot_be_had(engine, task_path, tmp_path):
    broken = TASKS["tiny_choice"] + DATASET.format(file=tmp_path / "absent.jsonl")
    (tmp_path / "tiny_choice.yaml").write_text(broken)
    with pytest.raises(RiverError, match="lm-eval cannot run tiny_choice: .*absent.jsonl"):
        run(engine, tmp_path, "tiny_choice")
