"""From a checkpoint to artifacts: ONNX, and engines for TensorRT and TensorRT-RTX."""
