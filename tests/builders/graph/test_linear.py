"""The typed linear says of an operator what its inputs say, absent ones included."""

import pytest

from builders.graph.linear import Linear, input_of, one_bank, without_pre_scale
from builders.graph.program import Operation
from builders.layouts.byte_counts import byte_counts
from builders.onnx_schemas import DOMAIN, SCHEMAS

PATH = "layers.2.mlp.down_proj"
SHAPES = {f"{PATH}.weight": (6, 40), f"{PATH}.qweight": (6, 2, 16)}


def operation(*optional: str) -> Operation:
    inputs = ("h", "flag", f"{PATH}.weight", f"{PATH}.qweight", f"{PATH}.scales", *optional)
    return Operation("Linear", inputs, ("y",), {}, DOMAIN, PATH)


def test_inputs_stand_where_the_schema_has_them() -> None:
    (schema,) = (schema for schema in SCHEMAS if schema.name == "Linear")
    given = Operation("Linear", tuple(i.name for i in schema.inputs), ("y",), {}, DOMAIN)
    assert all(input_of(given, name) == name for name in given.inputs)


def test_a_linear_with_only_a_bias_has_no_zero_points_and_no_pre_scale() -> None:
    linear = Linear.of(operation("", "", f"{PATH}.bias"), SHAPES)
    assert (linear.has_zero_points, linear.has_pre_scale, linear.has_bias) == (False, False, True)
    assert (linear.path, linear.layer, linear.x, linear.y) == (PATH, 2, "h", "y")
    assert (linear.shape, linear.group_size, linear.groups) == ((6, 40), 32, 2)


def test_without_pre_scale_keeps_the_bias() -> None:
    scaled = operation("", f"{PATH}.pre_scale", f"{PATH}.bias")
    linear = Linear.of(without_pre_scale(scaled), SHAPES)
    assert Linear.of(scaled, SHAPES).has_pre_scale
    assert not linear.has_pre_scale and linear.has_bias


def test_the_head_of_one_bank_has_no_river_unless_told() -> None:
    shapes = {"lm_head": (90, 40), "lm_head.qweight": (90, 2, 16)}
    assert Linear.of(one_bank("lm_head", "h", "logits", river=False), shapes).group_size == 0
    assert Linear.of(one_bank("lm_head", "h", "logits", river=True), shapes).group_size == 32


def test_the_first_layer_that_has_no_river_does_not_thin_out_the_mean() -> None:
    sizes = {"embedding": 1000, "lm_head.qweight": 70, "lm_head.scales": 7, "norm.weight": 5}
    for layer in range(3):
        prefix = f"layers.{layer}"
        sizes |= {f"{prefix}.mlp.down_proj.weight": 400, f"{prefix}.mlp.down_proj.bias": 10}
        sizes |= {f"{prefix}.input_norm.weight": 3, f"{prefix}.input_norm.weight_pre_scaled": 3}
    for layer in (1, 2):
        sizes[f"layers.{layer}.mlp.down_proj.qweight_panels"] = 100
    counts = byte_counts(sizes, num_layers=3, vocab_size=50)
    assert (counts.backbone_layer, counts.river_layer) == (413, 113)
    assert (counts.lm_head, counts.embedding) == (77, 20)


def test_a_weight_of_no_bank_is_noticed() -> None:
    with pytest.raises(AssertionError, match="is of no bank"):
        byte_counts({"embedding": 8, "layers.0.mlp.down_proj.mystery": 1}, 1, 4)
