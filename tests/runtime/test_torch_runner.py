"""PyTorch behind the runner protocol."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dabnet.artifact import open_checkpoint
from dabnet.errors import BackendUnavailable, InputError
from dabnet.head import confidence_of
from dabnet.models.image_to_mask import ImageToMask
from dabnet.preprocessing import Preprocessing
from dabnet.runtime import torch_runner
from dabnet.runtime.runner import HasLayerTimes
from dabnet.runtime.torch_runner import MODES, CapturedCall, TorchRunner, mode_notes
from tests.support.seeded_checkpoint import (
    PREPROCESSING,
    SIZE,
    noise,
    seeded_network,
    write_checkpoint,
)

SHAPE = (2, *SIZE, 3)
CPU = torch.device("cpu")


def runner_of(module: ImageToMask, mode: str = "eager") -> TorchRunner:
    return TorchRunner(module, SHAPE, CPU, threads=1, mode=mode)


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


@pytest.mark.parametrize("mask_dtype", [torch.uint8, torch.int32])
def test_a_confidence_is_the_probability_of_the_mask(mask_dtype: torch.dtype) -> None:
    head = "mask+confidence"
    runner = runner_of(ImageToMask(seeded_network(), PREPROCESSING, mask_dtype, head=head))
    images = noise(SHAPE, 1)
    found = runner.infer_with_confidence(images)
    logits = runner_of(ImageToMask(seeded_network(), PREPROCESSING, head="logits"))
    with torch.inference_mode():
        expected = confidence_of(logits._module(torch.from_numpy(images)).numpy())
    assert found.mask.dtype == found.confidence.dtype == np.uint8
    assert np.abs(found.confidence.astype(int) - expected).max() <= 1
    assert len(np.unique(found.confidence)) > 20 and runner.info.head == head
    assert np.array_equal(found.mask, runner.infer(images))
    with pytest.raises(InputError, match="gives no confidence"):
        runner_of(ImageToMask(seeded_network(), PREPROCESSING)).infer_with_confidence(images)


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


@pytest.mark.parametrize(("mode", "least"), [("channels-last", 0.9999), ("bf16", 0.9)])
def test_modes_give_the_masks_too(mode: str, least: float) -> None:
    runner = runner_of(ImageToMask(seeded_network(), PREPROCESSING), mode)
    images = noise(SHAPE, 1)
    assert (runner.infer(images) == expected_masks(images)).mean() >= least
    assert runner.info.precision == ("bf16" if mode == "bf16" else "fp32")
    assert runner.info.notes[0] == MODES[mode].note
    with torch.inference_mode():
        weight = runner._module.network.state_dict()["init_conv.1.conv.weight"]
    assert weight.dtype == torch.float32
    assert weight.is_contiguous(memory_format=torch.channels_last) == (mode == "channels-last")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_what_is_compiled_gives_the_masks_too() -> None:
    runner = runner_of(ImageToMask(seeded_network(), PREPROCESSING), "compiled")
    images = noise(SHAPE, 1)
    assert (runner.infer(images) == expected_masks(images)).mean() >= 0.9999
    runner.stage([images])
    runner.launch(0)
    assert "compiled code" in {layer.kind for layer in runner.layer_times(images, 1)}


def test_a_compiler_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler\nand much more")

    monkeypatch.setattr(torch, "compile", lambda module, mode: fails)
    with pytest.raises(BackendUnavailable, match=r"torch.compile failed \(no compiler\); it needs"):
        runner_of(ImageToMask(seeded_network(), PREPROCESSING), "compiled")


def test_modes_that_make_no_sense_here() -> None:
    module = ImageToMask(seeded_network(), PREPROCESSING)
    with pytest.raises(BackendUnavailable, match="a CUDA graph needs a GPU"):
        runner_of(module, "cuda-graph")
    with pytest.raises(InputError, match="mode 'fast'; expected one of eager"):
        runner_of(module, "fast")


@pytest.mark.parametrize("flags", ["fpu sse2 avx2", "fpu avx512_fp16 amx_bf16", None])
def test_half_precision_on_other_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str | None
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"processor : 0\nflags : {flags}\n", encoding="utf-8")
    monkeypatch.setattr(torch_runner, "CPUINFO", cpuinfo)
    if flags and "avx512_fp16" in flags:
        assert mode_notes("fp16", "cpu") == mode_notes("bf16", "cpu") == ()
        return
    with pytest.raises(BackendUnavailable, match="no FP16 arithmetic"):
        mode_notes("fp16", "cpu")
    assert "emulated" in mode_notes("bf16", "cpu")[0]
    assert mode_notes("fp16", "cuda") == mode_notes("bf16", "cuda") == ()


def test_layer_times_name_operators_and_shapes() -> None:
    runner = runner_of(ImageToMask(seeded_network(), PREPROCESSING))
    assert isinstance(runner, HasLayerTimes)
    layers = runner.layer_times(noise(SHAPE, 1), 2)
    kinds = {layer.kind for layer in layers}
    assert any("conv" in kind for kind in kinds) and "argmax" in kinds
    assert f"argmax 2x11x{SIZE[0]}x{SIZE[1]}" in {layer.name for layer in layers}
    assert len({layer.name for layer in layers}) == len(layers)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert [layer.seconds for layer in layers] == sorted((x.seconds for x in layers), reverse=True)


def test_a_captured_call_reads_its_own_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda, replaced: a record runs nothing on a GPU, and a replay runs what it recorded."""
    calls: list[str] = []
    given = torch.tensor([1.0, 2.0])
    result = torch.zeros(2)

    def function(images: torch.Tensor) -> torch.Tensor:
        assert images is given
        calls.append("run")
        return result.copy_(2 * images)

    class Graph:
        def replay(self) -> None:
            function(given)

    class Stream:
        def synchronize(self) -> None:
            calls.append("synchronize")

    @contextmanager
    def graph(recorded: Graph, stream: Stream) -> Iterator[None]:
        calls.append("record")
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    captured = CapturedCall(function, given, Stream())  # type: ignore[arg-type]
    assert calls == ["run", "run", "run", "synchronize", "record", "run"]
    assert captured.replay().tolist() == [2, 4]
    assert captured.replay(torch.tensor([5.0, 6.0])) is result
    assert result.tolist() == [10, 12]


def test_a_checkpoint_is_opened_with_its_own_preprocessing(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path)
    images = noise(SHAPE, 1)
    runner = open_checkpoint(path, None, SHAPE, threads=1)
    assert (runner.infer(images) == expected_masks(images)).mean() >= 0.9999
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="PyTorch sees no NVIDIA GPU"):
            open_checkpoint(path, None, SHAPE, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("mode", sorted(MODES))
def test_every_mode_on_a_gpu(mode: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no GPU")
    module = ImageToMask(seeded_network(), PREPROCESSING, head="mask+confidence")
    on_cpu = ImageToMask(seeded_network(), PREPROCESSING, head="mask+confidence")
    runner = TorchRunner(module, SHAPE, torch.device("cuda"), mode=mode)
    batches = [noise(SHAPE, seed) for seed in (1, 2)]
    least, most = (0.99, 1) if MODES[mode].precision == "fp32" else (0.9, 20)
    for images in batches:
        found, wanted = (r.infer_with_confidence(images) for r in (runner, runner_of(on_cpu)))
        assert (found.mask == expected_masks(images)).mean() >= least
        assert np.abs(found.confidence.astype(int) - wanted.confidence).mean() <= most
    runner.stage(batches)
    for index in (0, 1, 0):
        runner.launch(index)
    runner.synchronize()
    assert runner.layer_times(batches[0], 2)
    runner.close()
