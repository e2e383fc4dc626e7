"""Each of the ten schemas is one that texts can be held to, whoever writes them."""

import pytest

from river_trt import GenerationConfig
from scripts.research.json_schemas import MODELS, hold
from tests.river_trt.conftest import make_engine  # noqa: F401  (a fixture)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_texts_of_a_schema_are_valid(make_engine, model):  # noqa: F811
    engine = make_engine(max_batch_size=4, max_seq_len=2000)
    config = GenerationConfig(max_new_tokens=1500, temperature=1.0, seed=1)
    found, _ = hold(engine, model, [[1], [2, 3]], config)
    assert found.valid == found.texts == 2, found.problem
    assert found.masks >= found.tokens
