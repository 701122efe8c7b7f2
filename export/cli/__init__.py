"""``dabnet-export``: each command parses, calls one function and prints."""
