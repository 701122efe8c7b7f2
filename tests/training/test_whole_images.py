"""Images of any size are validated: padded to the stride of the network, or reduced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dabnet.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dabnet.data.augmentation import whole_image
from dabnet.data.camvid import CamVid
from dabnet.data.toy_street import write_camvid_tree
from dabnet.metrics import confusion, mean_iou
from dabnet.models import UNIT
from dabnet.models.image_to_mask import ImageToMask
from dabnet.training.learner import Learner
from dabnet.training.processes import Processes
from dabnet.training.qat import convolutions, qat_start
from dabnet.training.start import Start
from tests.support.seeded_checkpoint import seeded_network
from tests.support.training_runs import RECIPE, run, spec_for


def test_an_image_is_padded_at_its_right_and_bottom() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 9, 3)).astype(np.uint8)
    padded, size = whole_image(image, 1.0, 8, (10, 20, 30))
    assert (padded.shape, size) == ((8, 16, 3), (5, 9))
    assert (padded[:5, :9] == image).all()
    assert (padded[5:] == (10, 20, 30)).all()
    assert (padded[:, 9:] == (10, 20, 30)).all()
    same, size = whole_image(padded, 1.0, 8, (0, 0, 0))
    assert same is padded
    reduced, size = whole_image(padded, 0.5, 4, (0, 0, 0))
    assert (reduced.shape, size) == ((4, 8, 3), (4, 8))


def test_training_validates_and_draws_images_of_odd_sides(tmp_path: Path) -> None:
    tree = write_camvid_tree(tmp_path / "data", (47, 61), {"train": 3, "val": 2})
    output = tmp_path / "run"
    assert run(tree, spec_for(output, recipe=replace(RECIPE, max_epochs=1))).finished
    last = load_checkpoint(output / "last.pth")
    module = ImageToMask(last.network(), last.preprocessing).eval()
    matrix = np.zeros((11, 11), np.int64)
    for item in iter(CamVid(tree, "val")):
        padded = np.empty((48, 64, 3), np.uint8)
        padded[:] = [round(value) for value in last.preprocessing.mean_rgb]
        padded[:47, :61] = item.image
        with torch.inference_mode():
            mask = module(torch.tensor(padded[None]))[0].numpy()
        matrix += confusion(mask[:47, :61], item.label, 11)
    assert float(mean_iou(matrix)) == last.metrics["val_miou"]
    with Image.open(output / "predictions.png") as picture:
        assert np.asarray(picture).std() > 0

    spec = spec_for(tmp_path / "qat", qat=output / "last.pth")
    ranges = qat_start(output / "last.pth", spec, CamVid(tree, "train"), Processes())
    assert len(ranges.activation_ranges) == 60


def test_where_training_sees_reduced_images_so_does_validation(whole: Path, tree: Path) -> None:
    trained = load_checkpoint(whole / "best.pth")
    recipe = replace(RECIPE, scales=(0.5,))
    start = Start.of(trained)
    weights = torch.ones(11)
    learner = Learner(
        spec_for(whole, recipe=recipe),
        11,
        11,
        trained.preprocessing,
        weights,
        9,
        Processes(),
        start,
    )
    learner.segmenter.eval()
    image = CamVid(tree, "val")[0].image  # 48 x 64
    half = np.asarray(Image.fromarray(image).resize((32, 24), Image.Resampling.BILINEAR))
    with torch.inference_mode():
        mask = learner.segmenter(torch.tensor(half[None]))[0].numpy()
    assert len(np.unique(mask)) > 1
    assert (learner.segment(image) == mask.repeat(2, 0).repeat(2, 1)).all()


def test_a_network_with_transposed_and_unused_convolutions_trains_in_int8(
    tree: Path, tmp_path: Path
) -> None:
    labels, state = CamVid(tree, "train").labels, seeded_network(11, "erfnet").state_dict()
    save_checkpoint(Checkpoint("erfnet", state, "camvid", labels, UNIT), tmp_path / "float.pth")
    recipe = replace(RECIPE, max_epochs=1, lr=1e-5)
    spec = spec_for(tmp_path / "int8", model="erfnet", recipe=recipe, qat=tmp_path / "float.pth")
    assert run(tree, spec).finished
    tuned = load_checkpoint(tmp_path / "int8" / "last.pth")
    used = convolutions(tuned.network()).keys() - {"encoder.output_conv"}
    assert tuned.activation_ranges.keys() == used
