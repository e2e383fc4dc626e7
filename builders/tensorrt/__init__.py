"""TensorRT engines: the traced program as ONNX for TensorRT, and a build in a process of its own."""
