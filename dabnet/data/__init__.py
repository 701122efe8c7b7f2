"""Data sets: labelled images as uint8 arrays; one file or subpackage per data set."""
