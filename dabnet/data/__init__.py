"""Datasets: labelled street scenes as uint8 arrays, one dataset a file."""
