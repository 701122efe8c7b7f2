"""The INT8 part of an export: ranges, placement, accuracy budget."""
