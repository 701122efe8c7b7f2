"""DABNet (Li & Kim, BMVC 2019): the network, its data, its training and the runners.

This module imports nothing heavy, so that every command answers ``--help`` at once.
"""

import os

__version__ = "0.1.0"

# onnxruntime 1.32 otherwise has telemetry on, and warns where it cannot store an identifier.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
