"""Hostile files, odd terminals, starved machines and interrupts: docs/reliability.md.

``families`` holds one module per kind of input, which yields its ``Case``s; ``server`` runs each in
a process of its own, and ``verdict`` sorts what it left.
"""
