"""Post-training INT8: ranges of activations → scales → a Q/DQ ONNX model.

``quantize`` in ``calibration.calibrate`` is the entry. Importing this package imports nothing
heavy.
"""
