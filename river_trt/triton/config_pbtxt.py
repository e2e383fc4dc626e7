"""The text of an exported model's config.pbtxt."""

from collections.abc import Sequence

from river_trt.triton.fields import OUTPUTS, Field, Layout


def config_pbtxt(name: str, layout: Layout, max_batch_size: int, gpus: Sequence[int]) -> str:
    """gpus: numbers, one instance on each; none: the CPU. max_batch_size: of batched layouts."""
    group = "count: 1 kind: KIND_CPU"
    if gpus:  # without the numbers Triton starts an instance for every GPU that it sees
        group = f"count: 1 kind: KIND_GPU gpus: [ {', '.join(map(str, gpus))} ]"
    inputs = ",\n".join(_input(field) for field in layout.inputs)
    outputs = ",\n".join(
        f'  {{ name: "{output.name}" data_type: TYPE_{output.kind} dims: [ -1 ] }}'
        for output in OUTPUTS
    )
    return f"""\
# Written by `river-trt triton export`, layout {layout.name}. The engine and how it is loaded are in
# 1/model.json. The model keeps its own queue: no dynamic_batching, no max_queue_size here.
name: "{name}"
backend: "python"
max_batch_size: {max_batch_size if layout.batched else 0}
model_transaction_policy {{ decoupled: true }}
input [
{inputs}
]
output [
{outputs}
]
instance_group [ {{ {group} }} ]
"""


def _input(field: Field) -> str:
    # Triton counts required inputs and does not look at their names, so ask.py checks text_input.
    dims = -1 if field.many else 1
    optional = "" if field.name == "text_input" else " optional: true"
    return f'  {{ name: "{field.name}" data_type: TYPE_{field.kind} dims: [ {dims} ]{optional} }}'
