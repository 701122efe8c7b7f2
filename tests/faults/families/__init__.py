"""One module per kind of input; each has ``cases()``."""

from tests.faults.families import records

FAMILIES = (records,)
