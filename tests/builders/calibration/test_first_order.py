"""One backward pass against what it stands for: each layer on the river, measured."""

import numpy as np
import pytest
import torch

from builders.build import initial_policy
from builders.calibration.first_order import FirstOrder
from builders.calibration.material import sensitivity
from builders.calibration_text import read_calibration
from builders.evaluation.subject import DecoderSubject
from builders.quantisers import make_quantiser
from builders.river_bank import load_decoder, river_format, stream_layers
from builders.source import ModelSource
from tests.builders.tiny_llama import save_tiny_llama

LAYERS, SKIP = 5, 4


def quiet(stage: str, done: int, total: int) -> None:
    pass


class Watch:
    def __init__(self, source: ModelSource, ids: torch.Tensor) -> None:
        self.ids, self.first_order = ids, FirstOrder(source, ids.shape[1], SKIP)

    def token_ids(self) -> torch.Tensor:
        return self.ids

    def layer(self, *layer) -> None:
        self.first_order.watch(*layer)


@pytest.mark.parametrize("quantiser", ["rtn", "awq"])
def test_costs_are_those_of_one_layer_on_the_river(tmp_path, quantiser):
    save_tiny_llama(
        tmp_path, num_hidden_layers=LAYERS, hidden_size=64, initializer_range=0.1, head_dim=16
    )
    source = ModelSource.open(str(tmp_path))
    ids = read_calibration(tmp_path / "none", source.config, None).token_ids
    made = make_quantiser(quantiser, 32, symmetric=False)
    watch = Watch(source, ids)
    for _ in stream_layers(source, made, source.shared(), ids, watch):
        pass
    found = watch.first_order.costs(quiet)

    river = river_format(source.config, made, 32, symmetric=False)
    decoder = load_decoder(source, made, river, ids.shape[1], ids)
    policy = initial_policy(LAYERS, None, None)
    subject = DecoderSubject(decoder, None, "tiny", "", "", ids.shape[1], policy)  # type: ignore[arg-type]
    measured = sensitivity(subject, list(ids.numpy()), SKIP, quiet)

    assert found[0] == np.inf
    ratio = found[1:] / measured[1:]
    assert (ratio > 0.4).all() and (ratio < 1.6).all(), ratio
