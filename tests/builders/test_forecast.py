"""A forecast is counts times a speed; what it was measured against is in docs/measurements.md."""

import pytest

from builders.forecast import RATE, Forecast, product_rate
from builders.source import ModelSource
from tests.builders.tiny_llama import save_tiny_llama


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    save_tiny_llama(directory)
    return ModelSource.open(str(directory)).config


def test_a_faster_machine_takes_less_and_quantisers_differ(config):
    slow, fast = (Forecast.of(config, 10**9, "awq", True, rate) for rate in (RATE, 4 * RATE))
    assert slow.quantising == pytest.approx(4 * fast.quantising)
    assert slow.calibrating == pytest.approx(4 * fast.calibrating)
    rtn = Forecast.of(config, 10**9, "rtn", False, RATE)
    assert rtn.quantising < slow.quantising / 10 and rtn.calibrating == 0
    assert product_rate() > 1e8


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ((0.2, 0.0), "takes about 1 s here: quantising 1 s"),
        ((50.0, 90.0), "quantising 50 s, calibrating 90 s (--no-calibrate leaves it out)"),
        ((3000.0, 30000.0), "takes about 9.2 h here: quantising 50 min, calibrating 8.3 h "),
    ],
)
def test_in_words(seconds, words):
    assert words in str(Forecast(*seconds))
