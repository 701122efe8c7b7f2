"""ONNX files on onnxruntime."""
