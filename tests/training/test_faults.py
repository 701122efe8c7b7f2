"""What goes wrong in a run is one line with a way out, and costs nothing that was saved."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dabnet.checkpoint import load_checkpoint
from dabnet.data.batches import BatchOrder
from dabnet.data.camvid import CamVid
from dabnet.data.toy_street import write_camvid_tree
from dabnet.errors import DabnetError, InputError
from dabnet.models import build_model
from dabnet.training.faults import told_as_one_line
from dabnet.training.learner import Learner
from dabnet.training.processes import Processes
from tests.support.processes import run_python
from tests.support.training_runs import (
    PER_EPOCH,
    RECIPE,
    TOTAL,
    assert_same_run,
    in_call,
    run,
    spec_for,
)


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    tree: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        in_call(patch, PER_EPOCH + 2, lambda value: value * math.inf)
        batch = BatchOrder(7, 2, 3, 5).batch(PER_EPOCH + 1)
        names = ", ".join(CamVid(tree, "train")[index].name for _, index in batch)
        message = (
            f"the loss is inf at iteration 5, whose batch was {names}; expected a finite loss;"
            rf" try a lower --lr in another --output; the last good state is {tmp_path}/last.pth$"
        )
        with pytest.raises(DabnetError, match=message):
            run(tree, spec_for(tmp_path))
    good = load_checkpoint(tmp_path / "last.pth")
    assert good.training["iteration"] == PER_EPOCH + 1
    assert all(tensor.isfinite().all() for tensor in good.state.values())
    # As good as if the fault had never been: it can be continued to the same end.
    assert run(tree, spec_for(tmp_path, resume=tmp_path / "last.pth")).finished
    assert_same_run(tmp_path, whole)


def test_a_bad_first_loss_leaves_nothing_and_promises_nothing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_call(monkeypatch, 1, lambda value: value * math.nan)
    message = "iteration 1, .* try --amp bf16 or off, or a lower --lr in another --output$"
    with pytest.raises(DabnetError, match=message):
        run(tree, spec_for(tmp_path, recipe=replace(RECIPE, amp="fp16")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("ema", "last_step"), [(0.0, 4), (0.9, 6), (0.9, TOTAL)])
def test_weights_that_a_step_ruined_replace_no_good_state(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float, last_step: int
) -> None:
    """The loss was finite: it is that of the weights before the step."""
    step = Learner.step

    def ruin(learner: Learner, iteration: int, *batch: Any) -> torch.Tensor:
        outcome = step(learner, iteration, *batch)
        if iteration + 1 == last_step:
            next(learner.network.parameters()).data.fill_(math.inf)
        return outcome

    monkeypatch.setattr(Learner, "step", ruin)
    with pytest.raises(DabnetError, match=f"no longer finite after iteration {last_step}; .*--lr"):
        run(tree, spec_for(tmp_path, recipe=replace(RECIPE, ema=ema)))
    assert load_checkpoint(tmp_path / "last.pth").training["iteration"] == last_step - 1
    for name in {"last.pth", "previous.pth", "best.pth"} & {p.name for p in tmp_path.iterdir()}:
        state = load_checkpoint(tmp_path / name).state
        assert all(tensor.isfinite().all() for tensor in state.values())


def test_a_bad_validation_label_is_met_before_the_first_epoch(tmp_path: Path) -> None:
    tree = write_camvid_tree(tmp_path / "data", (48, 64), {"train": 4, "val": 2})
    victim = sorted((tree / "valannot").iterdir())[1]
    Image.new("L", (64, 48), 77).save(victim)
    with pytest.raises(InputError, match=f"{victim.name}' holds the label value 77"):
        run(tree, spec_for(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


LITTLE_MEMORY = """
import resource
import torch
from dabnet.cli import main

size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30),) * 2)
main()
"""


@pytest.mark.parametrize("data_path", ["workers", "device"])
def test_too_large_a_batch_in_a_real_process(tree: Path, tmp_path: Path, data_path: str) -> None:
    words = ["--data-dir", tree, "--input-size", "4000x4000", "--batch-size", "6", "--max-epochs"]
    words += ["1", "--data-path", data_path, "--output", tmp_path / "run", "--no-tensorboard"]
    done = run_python(LITTLE_MEMORY, *words, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "error: out of memory on cpu with --batch-size 6 and crops of 4000x4000; expected a batch"
        " that fits; try --batch-size 3, or a smaller --input-size\n"
    )
    assert not (tmp_path / "run").exists()  # the same --output may be tried again


def test_a_gpu_out_of_memory_may_also_compute_in_half_precision(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, device=torch.device("cuda", 1))
    message = (
        "on cuda:1 with --batch-size 2 over 2 processes .* try --amp bf16, or a smaller"
        " --input-size, or --data-path workers"
    )
    with (
        pytest.raises(DabnetError, match=message),
        told_as_one_line(spec, Processes(1, 2, 1)),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_batch_of_one_image_behind_a_global_mean_is_told(tmp_path: Path) -> None:
    network = build_model("lednet", 3).train()
    with (
        pytest.raises(InputError, match=r"^--batch-size 2 over 2 processes; .*add --sync-bn$"),
        told_as_one_line(spec_for(tmp_path, model="lednet"), Processes(0, 2)),
    ):
        network(torch.zeros(1, 3, 16, 16))


def test_a_fault_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="shapes differ"),
        told_as_one_line(spec_for(tmp_path), Processes(0, 2)),
    ):
        raise RuntimeError("shapes differ")
