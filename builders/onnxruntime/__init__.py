"""ONNX Runtime backend: the dialect graph rewritten with If regions and 4-bit kernels.

program.py      the traced ONNX graph as a flat list of operations
fusions.py      plain operators to the fused kernels that ONNX Runtime has
regions.py      which operations run under which layer's flag
emit.py         operations of one region, for one bank
lowering.py     the whole graph
weights_file.py the external data file, streamed layer by layer
build.py        checkpoint to engine directory
"""
