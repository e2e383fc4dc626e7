"""ONNX Runtime backend: the dialect graph rewritten with If regions and 4-bit kernels.

fusions.py        plain operators to the fused kernels that ONNX Runtime has
emit.py           operations of one region, for one bank
gate.py           the gate, and what passes from layer to layer
lm_head.py        embedding and head
lowering.py       the whole graph
native.py         the same over the native kernels, one operator a layer
layer_tensors.py  one layer's weights as the arrays of the weights file
build.py          checkpoint to engine directory

What it walks over is in builders/graph, the weights file in builders/layouts.
"""
