import dataclasses
import json

import pytest

from river_trt import RiverError
from river_trt.cli.main import main
from river_trt.engine_dir import read_engine_dir
from river_trt.manifest import ByteCounts
from river_trt.offload import Card, mean_cost, parse_bytes, plan_offload

CARD = Card("made", memory=1e9, host=1e8)
COUNTS = ByteCounts(backbone_layer=1000, river_layer=100, lm_head=50, embedding=1)


@pytest.fixture
def manifest(engine_directory):
    """Four layers, layer 4 pinned, a cache of 64 slots."""
    found = read_engine_dir(engine_directory)
    shape = dataclasses.replace(found.model.shape, num_layers=4, vocab_size=10, max_seq_len=64)
    info = dataclasses.replace(found.model, shape=shape, eos_token_ids=(2,), bos_token_id=1)
    policy = dataclasses.replace(found.policy, tau=(0.5,) * 4, pinned=(4,))
    return dataclasses.replace(
        found,
        model=info,
        policy=policy,
        draft=dataclasses.replace(found.draft, pinned=()),
        bytes_per_layer=COUNTS,
    )


def least_bytes(manifest) -> int:
    shape = manifest.model.shape
    cache = 2 * 4 * shape.num_kv_heads * shape.head_dim * 64 * 4  # float32
    return 3 * COUNTS.river_layer + COUNTS.lm_head + 10 * COUNTS.embedding + cache


def test_pinned_layers_stay_first_then_the_lowest(manifest):
    least = least_bytes(manifest)
    for layers, stay in ((0, ()), (1, (4,)), (2, (1, 4)), (3, (1, 2, 4)), (4, (1, 2, 3, 4))):
        plan = plan_offload(manifest, least + 1000 * layers + 999)
        assert plan.resident == stay and sorted(plan.resident + plan.host) == [1, 2, 3, 4]
        assert plan.needed == least + 4000
    with pytest.raises(RiverError, match="which stay on the GPU"):
        plan_offload(manifest, least - 1)
    with pytest.raises(RiverError, match="which stay on the GPU"):
        plan_offload(manifest, least, rows=2)


def test_a_token_pays_for_the_layers_that_it_runs(manifest):
    plan = plan_offload(manifest, least_bytes(manifest) + 2000)  # 1 and 4 stay
    early, late = plan.token(1, CARD), plan.token(3, CARD)
    assert (early.backbone_layers, early.host_bytes) == (2, 0)
    assert (late.backbone_layers, late.host_bytes) == (4, 2000)
    on_gpu = 2 * 1000 + 2 * 100 + 51
    assert early.seconds == pytest.approx(on_gpu / 1e9)
    assert early.streamed_seconds == pytest.approx(on_gpu / 1e9 + 2000 / 1e8)
    assert late.seconds == late.streamed_seconds == pytest.approx((2000 + 51) / 1e9 + 2000 / 1e8)


def test_the_mean_weighs_by_how_many_exited_where(manifest):
    plan = plan_offload(manifest, least_bytes(manifest) + 2000)
    costs = [plan.token(layer, CARD).seconds for layer in (1, 2, 3, 4)]
    mean = mean_cost(plan, CARD, [3, 0, 1, 0])
    assert mean.seconds == pytest.approx((3 * costs[0] + costs[2]) / 4)
    for wrong in ([1, 2, 3], [0] * 4, [1, -1, 1, 1]):
        with pytest.raises(RiverError, match="exit counts must be 4 numbers"):
            mean_cost(plan, CARD, wrong)


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GB", 16 * 10**9), ("1.5 gib", 3 * 2**29), ("500mb", 5 * 10**8), ("1MiB", 2**20)],
)
def test_memory_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["16", "GB", "-1GB", "0GB", "nanGB", "1e99GB", "sixteen GB", ""])
def test_bad_memory_sizes(text):
    with pytest.raises(RiverError, match="reads like 16GB"):
        parse_bytes(text)


def test_the_command(engine_directory, tmp_path, capsys):
    layers = read_engine_dir(engine_directory).model.shape.num_layers
    exits = tmp_path / "evaluate.json"
    exits.write_text(json.dumps([{"name": "its policy", "exit_counts": [1] * layers}]))
    arguments = ["inspect", str(engine_directory), "--offload", "1GB", "--card", "a100"]
    assert main([*arguments, "--exits", str(exits)]) == 0
    printed = capsys.readouterr().out
    assert "in host memory: none" in printed and "its policy (mean)" in printed
    assert "A100" in printed and f"layer {layers}" in printed
    for extra, message in (
        (["--offload", "1B"], "reads like 16GB"),
        (["--offload", "1GB", "--rows", "0"], "--rows must be at least 1"),
        (["--offload", "1GB", "--exits", "nowhere"], "is not what `river-trt evaluate --json`"),
    ):
        assert main(["inspect", str(engine_directory), *extra]) == 2
        assert message in capsys.readouterr().err
