"""What only a GPU can show of training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dabnet.checkpoint import load_checkpoint
from dabnet.data.augmentation import Augmentation
from dabnet.data.batches import Batch, BatchOrder, DeviceBatches
from dabnet.data.memory import OnDevice
from dabnet.data.toy_street import ToyStreet
from dabnet.interrupt import Stop
from dabnet.preprocessing import Preprocessing
from dabnet.training.learner import Learner, fastest_amp
from dabnet.training.processes import Processes
from dabnet.training.recipes import Recipe
from dabnet.training.spec import TrainingSpec
from tests.support.training_runs import command, log_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU"),
]

AUGMENTATION = Augmentation((32, 64), (0.75, 1.0, 2.0), (105, 108, 110), 11)


def batches_on(device: str, epochs: int) -> list[Batch]:
    held = OnDevice(ToyStreet("train", (48, 64), 6), torch.device(device))
    return list(DeviceBatches(held, AUGMENTATION, BatchOrder(6, 2, epochs, 7), 7))


def test_batches_are_those_of_the_cpu() -> None:
    both = zip(batches_on("cpu", 2), batches_on("cuda", 2), strict=True)
    for (pixels, labels), (on_gpu, labels_on_gpu) in both:
        assert torch.equal(labels, labels_on_gpu.cpu())
        assert (pixels.int() - on_gpu.cpu().int()).abs().max() <= 2


@pytest.mark.parametrize("loss", ["ce", "ohem"])
def test_neither_a_batch_nor_a_step_waits_for_the_gpu(tmp_path: Path, loss: str) -> None:
    device = torch.device("cuda")
    recipe = Recipe((32, 64), 2, 3, loss=loss, amp="bf16", ema=0.9)
    spec = TrainingSpec("dabnet", recipe, tmp_path, device, 0, 1, channels_last=True)
    mean, weights = Preprocessing((105.0, 108.0, 110.0)), torch.ones(11)
    learner = Learner(spec, 11, 11, mean, weights, 9, Processes())
    held = OnDevice(ToyStreet("train", (48, 64), 6), device)
    batches = iter(DeviceBatches(held, AUGMENTATION, BatchOrder(6, 2, 3, 7), 7))
    try:
        for iteration in range(9):
            if iteration == 3:  # the first steps choose kernels and make the optimiser's state
                torch.cuda.set_sync_debug_mode("error")
            outcome = learner.step(iteration, *next(batches), Stop())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value >= 0 for value in outcome.tolist())


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_run_on_a_gpu_learns_and_can_be_continued(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amp: str
) -> None:
    words = ["--data-dir", tree, "--input-size", "32x32", "--batch-size", 2, "--device", "cuda"]
    words += ["--amp", amp, "--ema", 0.9, "--max-epochs", 10, "--output", tmp_path]
    assert command(monkeypatch, *words) == 0
    losses = [float(row["loss"]) for row in log_of(tmp_path)]
    assert losses[-1] < losses[0]
    last = load_checkpoint(tmp_path / "last.pth")
    assert last.training["data_path"] == "device"
    assert command(monkeypatch, "--resume", tmp_path, "--data-dir", tree) == 0


def test_a_run_with_a_time_limit(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the last GPU of the machine, by its half precision, with the data in its memory."""
    last = f"cuda:{torch.cuda.device_count() - 1}"
    words = ["--data-dir", tree, "--input-size", "32x32", "--batch-size", 2, "--device", last]
    words += ["--max-minutes", 5, "--max-epochs", 20, "--output", tmp_path]
    assert command(monkeypatch, *words) == 0
    losses = [float(row["loss"]) for row in log_of(tmp_path)]
    assert losses[-1] < losses[0]
    checkpoint = load_checkpoint(tmp_path / "last.pth")
    assert checkpoint.recipe["max_epochs"] == 20
    assert checkpoint.recipe["amp"] == fastest_amp(torch.device(last))
    assert checkpoint.training["data_path"] == "device"
    assert command(monkeypatch, "--resume", tmp_path, "--data-dir", tree) == 0
