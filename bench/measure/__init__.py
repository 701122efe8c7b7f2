"""Measurement of one row: preparation, accuracy, time."""
