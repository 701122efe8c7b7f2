"""Two processes train as one does: the same losses, one clean stop, and no silent end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from dabnet.checkpoint import load_checkpoint
from dabnet.training.processes import Processes, processes_of_torchrun
from tests.support import ROOT
from tests.support.training_runs import command, log_of

WORDS = ["--input-size", "32x32", "--batch-size", "4", "--seed", "3", "--eval-every", "2"]
MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@contextmanager
def started(tree: Path, *words: object) -> Iterator[subprocess.Popen[str]]:
    """Run dabnet-train in two processes under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", "-m", "dabnet.cli", "--data-dir", str(tree)]
    process = subprocess.Popen(
        [*torchrun, *WORDS, *map(str, words)],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()


def worker_of(torchrun: int, rank: int) -> int:
    """Return the process that torchrun gave the place ``rank``."""
    for folder in Path("/proc").iterdir():
        try:
            parent = re.search(r"PPid:\t(\d+)", (folder / "status").read_text())
            place = f"\0RANK={rank}\0".encode() in (folder / "environ").read_bytes()
        except OSError:
            continue  # not a process, or one that is gone
        if parent and int(parent[1]) == torchrun and place:
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    while not file.exists() and process.poll() is None:
        time.sleep(0.02)


@pytest.mark.parametrize("loss", ["ce", pytest.param("ohem", marks=pytest.mark.slow)])
def test_two_processes_have_the_losses_of_one_with_the_whole_batch(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    # A processor may take other kernels for half of the batch, and rounding errors grow from step
    # to step: least with SGD, a low rate and few steps.
    words = ["--optimizer", "sgd", "--lr", "0.001", "--loss", loss, "--max-epochs", "3"]
    words += ["--ema", "0.5", "--sync-bn"]
    with started(tree, *words, "--output", tmp_path / "two") as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "2 processes, cpu" in out
    assert out.count("best validation mIoU") == 1  # one of them speaks
    one = [*WORDS, *words, "--data-dir", tree, "--output", tmp_path / "one"]
    assert command(monkeypatch, *one) == 0

    losses = [[float(row["loss"]) for row in log_of(tmp_path / run)] for run in ("one", "two")]
    assert losses[1][:2] == pytest.approx(losses[0][:2], rel=1e-6)
    assert losses[1] == pytest.approx(losses[0], rel=3e-4)
    ours, theirs = (load_checkpoint(tmp_path / run / "last.pth") for run in ("two", "one"))
    for name, tensor in theirs.state.items():
        torch.testing.assert_close(ours.state[name], tensor, rtol=2e-3, atol=2e-4)
    scores = [c.metrics["val_pixel_accuracy"] for c in (ours, theirs)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


@pytest.mark.slow
def test_two_processes_fine_tune_as_one(
    tree: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--qat", whole / "best.pth", "--max-epochs", "3", "--lr", "1e-5", "--ema", "0.5"]
    with started(tree, *words, "--output", tmp_path / "two") as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "2 processes, cpu" in out
    one = [*WORDS, *words, "--data-dir", tree, "--output", tmp_path / "one"]
    assert command(monkeypatch, *one) == 0
    rows = [log_of(tmp_path / run) for run in ("one", "two")]
    assert rows[1][0]["val_miou"] == rows[0][0]["val_miou"]  # of the start
    losses = [[float(row["loss"]) for row in log[1:]] for log in rows]
    # Without --sync-bn: BatchNorm's statistics stay as they were. What lies between two levels may
    # be rounded to either.
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
    ours, theirs = (load_checkpoint(tmp_path / run / "last.pth") for run in ("two", "one"))
    assert ours.activation_ranges == theirs.activation_ranges
    for name, tensor in theirs.state.items():
        torch.testing.assert_close(ours.state[name], tensor, rtol=0, atol=3e-5)


@pytest.mark.slow
def test_two_processes_keep_one_limit(tree: Path, tmp_path: Path) -> None:
    words = ["--max-minutes", 10, "--max-epochs", 2, "--ema", "0.5", "--sync-bn"]
    runs = []
    for name, limit in (("fitted", words[:2]), ("plain", [])):
        with started(tree, *limit, *words[2:], "--output", tmp_path / name) as process:
            _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert err.count("fits 2 epochs into 10 minutes") == len(limit) / 2  # one of them speaks
        runs.append(load_checkpoint(tmp_path / name / "last.pth"))
    for name, tensor in runs[1].state.items():
        assert torch.equal(runs[0].state[name], tensor)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_can_be_continued(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with started(tree, "--max-epochs", 24, "--output", run) as process:
        wait_for(run / "best.pth", process)
        os.kill(worker_of(process.pid, 1), signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "error: another of the 2 processes of this run ended, or its connection broke" in err
    assert "(seen by process 0: " in err
    assert (
        f"expected all of them to run to the end; start them all again with --resume {run}" in err
    )
    reached = load_checkpoint(run / "last.pth").training["iteration"]
    # Another number of processes may go on with it.
    assert command(monkeypatch, "--resume", run, "--data-dir", tree) == 0
    assert reached < load_checkpoint(run / "last.pth").training["iteration"] == 24


def test_ctrl_c_stops_all_processes_at_the_same_iteration(tree: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(tree, "--max-epochs", 400, "--output", run) as process:
        wait_for(run / "best.pth", process)
        process.send_signal(signal.SIGINT)  # torchrun hands it on
        _, err = process.communicate(timeout=120)
    assert f"stopped; continue with: --resume {run / 'last.pth'}" in err
    assert "ended, or its connection broke" not in err
    last = load_checkpoint(run / "last.pth")
    assert 2 <= last.training["iteration"] < 400


def test_a_batch_that_cannot_be_shared_is_told(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "x")):
        monkeypatch.setenv(name, value)
    assert command(monkeypatch, *WORDS, "--data-dir", tree, "--output", tmp_path / "x") == 2
    said = capfd.readouterr().err
    assert "RANK=1, WORLD_SIZE=3, LOCAL_RANK=x, MASTER_ADDR=unset, MASTER_PORT=unset" in said
    for name, value in (("LOCAL_RANK", "1"), *MEETING.items()):
        monkeypatch.setenv(name, value)
    assert processes_of_torchrun() == Processes(1, 3, 1)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_meets_no_other_ends_in_one_line(
    rank: int,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("dabnet.training.processes.MOST_WAIT_S", 1.0)
    here = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), **MEETING}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    assert command(monkeypatch, *WORDS, "--data-dir", tree, "--output", tmp_path / "x") == 2
    assert f"process {rank} met not all of 2 processes at 127.0.0.1" in capfd.readouterr().err
    assert not (tmp_path / "x").exists()


def sync_batchnorm_worker(rank: int, port: int, folder: str) -> None:
    import torch.distributed as dist

    from dabnet.training.processes import Processes, synchronised

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=2)
    network, whole = batchnorm_case()
    synced = synchronised(network, torch.device("cpu")).train()
    mine = whole[rank::2].clone().requires_grad_()
    for _ in range(2):
        loss = (synced(mine) * weights_like(whole)[rank::2]).sum()
        gradient, slope = torch.autograd.grad(loss, [mine, network[0].weight])
    found = {"input": gradient, "weight": slope, "loss": loss.detach()}
    found["state"] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cpu = torch.device("cpu")
    found["largest"] = Processes(rank, 2).largest([rank + 0.1, -rank], cpu)
    found["half"] = synced(mine.detach().bfloat16())
    torch.save(
        found,
        Path(folder) / f"{rank}.pth",
    )
    dist.destroy_process_group()


def batchnorm_case() -> tuple[nn.Sequential, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3, eps=1e-3))
    network[0].weight.data = torch.rand(3, generator=random) + 0.5
    # Means far from 0, as the joined image has them.
    return network, torch.randn(4, 3, 5, 6, generator=random) * 3 + 40


def weights_like(batch: torch.Tensor) -> torch.Tensor:
    return torch.randn(batch.shape, generator=torch.Generator().manual_seed(1))


def test_batchnorm_over_two_processes_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    network, whole = batchnorm_case()
    network.train()
    whole.requires_grad_()
    for _ in range(2):
        loss = (network(whole) * weights_like(whole)).sum()
        gradient, slope = torch.autograd.grad(loss, [whole, network[0].weight])
    total = pytest.approx(float(loss.detach()), rel=1e-5)
    port = 29500 + os.getpid() % 2000
    torch.multiprocessing.spawn(sync_batchnorm_worker, (port, str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    assert sum(float(part["loss"]) for part in parts) == total
    torch.testing.assert_close(parts[0]["weight"] + parts[1]["weight"], slope)
    for rank, part in enumerate(parts):
        torch.testing.assert_close(part["input"], gradient[rank::2], rtol=1e-4, atol=1e-6)
        assert part["largest"] == [1.1, 0.0]
        assert part["half"].dtype == torch.bfloat16
        assert part["state"].keys() == network.state_dict().keys()
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(part["state"][name], tensor)
