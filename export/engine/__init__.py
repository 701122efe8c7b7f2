"""ONNX to TensorRT engine: one code path over TensorRT 8.6, 10, 11 and TensorRT-RTX."""
