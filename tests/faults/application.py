"""An application of the README: it opens an artifact, runs it, and colours the mask."""

from __future__ import annotations

import sys

import numpy as np

from dabnet.artifact import as_input, open_artifact, predict
from dabnet.errors import DabnetError


def main() -> None:
    try:
        runner = open_artifact(sys.argv[1])
        batch, height, width = runner.manifest.example
        images = np.zeros((batch, height, width, 3), np.uint8)
        masks = predict(runner, images)
        colours = np.array(runner.manifest.palette, np.uint8)[masks]
        print(as_input(runner.manifest, images).shape, colours.shape)
        runner.close()
    except DabnetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
