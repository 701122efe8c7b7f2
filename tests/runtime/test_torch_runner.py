"""PyTorch behind the runner protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from seeded_checkpoint import PREPROCESSING, SIZE, noise, seeded_network

from dabnet.errors import InputError
from dabnet.models.image_to_mask import ImageToMask
from dabnet.preprocessing import Preprocessing
from dabnet.runtime.torch_runner import TorchRunner

SHAPE = (2, *SIZE, 3)
CPU = torch.device("cpu")


def runner_of(module: ImageToMask) -> TorchRunner:
    return TorchRunner(module, SHAPE, CPU, threads=1)


def expected_masks(images: Any, preprocessing: Preprocessing = PREPROCESSING) -> Any:
    """The network's own logits on an image that numpy has normalised."""
    mean, scale = np.float32(preprocessing.mean_rgb), np.float32(preprocessing.scale)
    normalised = ((images.astype(np.float32) - mean) * scale).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        logits = seeded_network()(torch.from_numpy(np.ascontiguousarray(normalised)))
    return logits.numpy().argmax(axis=1)


@pytest.mark.parametrize("mask_dtype", [torch.uint8, torch.int32])
@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_infer_gives_the_networks_masks(
    mask_dtype: torch.dtype, scale: tuple[float, float, float]
) -> None:
    preprocessing = Preprocessing(PREPROCESSING.mean_rgb, scale)
    runner = runner_of(ImageToMask(seeded_network(), preprocessing, mask_dtype))
    images = noise(SHAPE, 1)
    masks = runner.infer(images)
    assert (masks.dtype, masks.shape) == (np.uint8, (2, *SIZE))
    assert (masks == expected_masks(images, preprocessing)).mean() >= 0.9999
    assert len(np.unique(masks)) >= 8
    assert np.array_equal(runner.infer(images[:, :, ::-1]), runner.infer(images[:, :, ::-1].copy()))


def test_a_network_in_training_mode_is_put_into_evaluation() -> None:
    module = ImageToMask(seeded_network().train(), PREPROCESSING)
    images = noise(SHAPE, 2)
    runner = runner_of(module)
    assert np.array_equal(runner.infer(images), expected_masks(images))
    # Batch statistics would have moved.
    assert np.array_equal(runner.infer(images), expected_masks(images))


def test_info_says_what_runs() -> None:
    info = runner_of(ImageToMask(seeded_network(), PREPROCESSING)).info
    assert (info.backend, info.version, info.precision) == ("pytorch", torch.__version__, "fp32")
    assert info.device.startswith("cpu (1 threads")
    assert info.shape == SHAPE


def test_launch_runs_the_staged_input_of_its_index() -> None:
    """``launch`` keeps no output, so the module's own calls are watched."""
    module = ImageToMask(seeded_network(), PREPROCESSING)
    seen: list[Any] = []
    module.register_forward_hook(lambda _, __, masks: seen.append(masks.numpy()))
    runner = runner_of(module)
    batches = [noise(SHAPE, seed) for seed in (3, 4, 5)]
    expected = [expected_masks(batch) for batch in batches]
    runner.stage(batches)
    assert seen == []
    batches[0][:] = 0  # staged inputs belong to the runner: the caller may reuse its arrays
    for index in (2, 0, 1):
        runner.launch(index)
        runner.synchronize()
        assert np.array_equal(seen.pop(), expected[index])
        assert seen == []
    runner.stage(batches[1:2])
    runner.launch(0)
    assert np.array_equal(seen.pop(), expected[1])
    with pytest.raises(IndexError):
        runner.launch(1)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros(SHAPE, np.float32),
        np.zeros((1, *SIZE, 3), np.uint8),
        np.zeros((2, 3, *SIZE), np.uint8),
        np.zeros((2, SIZE[0], SIZE[1] + 8, 3), np.uint8),
    ],
    ids=["dtype", "batch", "layout", "size"],
)
def test_other_images_are_refused(images: Any) -> None:
    runner = runner_of(ImageToMask(seeded_network(), PREPROCESSING))
    for use in (runner.infer, lambda batch: runner.stage([batch])):
        with pytest.raises(InputError, match=r"uint8 of shape \(2, 64, 96, 3\)"):
            use(images)
