"""ONNX graphs: their layers and the values of their tensors."""
