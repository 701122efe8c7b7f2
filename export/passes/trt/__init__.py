"""Passes for TensorRT and TensorRT-RTX, which come last: behind Q/DQ and FP16.

They write operators that TensorRT computes in one kernel with their neighbours.
"""
