"""What an engine of TensorRT needs to run: plans in pure Python, and a thin layer over CUDA."""
