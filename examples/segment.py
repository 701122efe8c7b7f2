"""Write the class mask of each image in a folder: python segment.py model.onnx photos/ masks/"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dabnet.artifact import open_artifact
from dabnet.data.image_files import is_image, read_image
from dabnet.errors import DabnetError


def main(artifact: str, photos: Path, masks: Path) -> None:
    runner = open_artifact(artifact)  # or model.engine, with model.engine.json beside it
    height, width = runner.manifest.size
    masks.mkdir(parents=True, exist_ok=True)
    for path in sorted(filter(is_image, photos.iterdir())):
        image = Image.fromarray(read_image(path))  # uint8 RGB, upright
        small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        mask = runner.infer(small[None])[0]  # uint8 (1, H, W, 3) → uint8 (H, W), class indices
        whole = Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST)
        whole.save(masks / f"{path.stem}.png")
    runner.close()


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    except (DabnetError, OSError, IndexError) as error:
        sys.exit(f"error: {error}" if len(sys.argv) == 4 else __doc__)
