"""One record → a self-contained HTML page."""
