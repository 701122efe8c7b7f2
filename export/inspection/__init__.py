"""Description of an artifact without running it."""
