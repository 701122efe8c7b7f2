"""ONNX graphs as ``onnx_ir`` models: facts, execution, editing, and a roofline.

Source: https://onnx.ai/ir-py/ (``onnx_ir.Model``, ``Graph``, ``Node``, ``Value``).
"""
