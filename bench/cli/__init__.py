"""``dabnet-bench``: each command parses, calls one function and prints."""
