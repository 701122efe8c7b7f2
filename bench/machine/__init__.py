"""The machine that is measured on: its load, its clocks, its peaks and the limit that follows."""
