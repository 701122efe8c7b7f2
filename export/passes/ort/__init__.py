"""Passes for onnxruntime's CPU provider."""
