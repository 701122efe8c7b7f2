"""One module per kind of input; each has ``cases()``."""

from tests.faults.families import data_sets, images, outputs, records

FAMILIES = (data_sets, images, outputs, records)
