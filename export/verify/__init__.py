"""Comparison of two artifacts: masks, logits and tensors on the same images."""
