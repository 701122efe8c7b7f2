"""Graph passes: one transform per file, ``call(model) → (model, what changed)``.

A pass takes and returns an ``onnx_ir.Model``; it may change the model in place. What it returns
beside it is one line per place that changed, in graph order.
"""
