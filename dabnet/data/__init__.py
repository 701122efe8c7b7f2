"""Datasets: labelled street scenes as uint8 arrays, one file or subpackage a dataset."""
