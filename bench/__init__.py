"""Accuracy beside speed, for every backend, from one run."""
