"""TensorRT engines: the traced program as ONNX, built in a process of its own."""
