"""DABNet (Li & Kim, BMVC 2019): the network, its data, its training and the runners.

This module imports nothing heavy, so that every command answers ``--help`` at once.
"""

__version__ = "0.1.0"
