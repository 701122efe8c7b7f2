"""The INT8 artifact: where Q/DQ stands, and on what it was calibrated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import dabnet.data.images
from dabnet.data.dataset import LabelledImage
from dabnet.data.image_files import image_sha256
from dabnet.data.registry import open_dataset
from dabnet.errors import InputError
from dabnet.precision import INT8
from dabnet.runtime.manifest import Manifest
from export.onnx_export import export_onnx
from export.spec import ExportSpec
from tests.support import ROOT
from tests.support.exported_artifacts import INT8 as SPEC
from tests.support.exported_artifacts import evenly_spaced, layers_in_network, producers
from tests.support.seeded_checkpoint import SIZE, no_bar, seeded_network


def test_qdq_stands_only_before_convolutions(
    artifacts: dict[str, tuple[Path, Manifest]],
) -> None:
    model = onnx.load(artifacts["int8"][0])
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    by_output = producers(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == layers_in_network(torch.nn.Conv2d)
    readers: dict[str, list[tuple[str, int]]] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append((node.op_type, position))

    activations = set()
    for node in convolutions:
        image, weight = by_output[node.input[0]], by_output[node.input[1]]
        assert (image.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        pair = by_output[image.input[0]]
        assert pair.op_type == "QuantizeLinear"
        assert pair.input[1:] == image.input[1:]  # one scale, one zero point
        assert constants[pair.input[1]].shape == ()
        activations.add(image.output[0])

        stored, scales = constants[weight.input[0]], constants[weight.input[1]]
        assert stored.dtype == np.int8 and np.abs(stored.astype(int)).max() == 127
        assert scales.dtype == np.float32 and scales.shape == (len(stored),)
        assert {a.name: a.i for a in weight.attribute} == {"axis": 0}
        for bias in node.input[2:]:
            assert constants[bias].dtype == np.float32

    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert readers[node.output[0]] == [("DequantizeLinear", 0)]
        if node.op_type == "DequantizeLinear":
            position = 0 if node.output[0] in activations else 1
            assert set(readers[node.output[0]]) == {("Conv", position)}
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8 and not zero.any()


def test_the_calibration_record_is_of_train(
    artifacts: dict[str, tuple[Path, Manifest]],
) -> None:
    calibration = artifacts["int8"][1].calibration
    assert calibration is not None
    assert (calibration.dataset, calibration.split) == ("toy-street", "train")
    assert (calibration.images, calibration.method) == (3, "mse")
    scenes = evenly_spaced("train", 3)
    assert calibration.image_sha256 == tuple(image_sha256(scene.image) for scene in scenes)
    assert calibration.placement == "conv-inputs"


def test_calibration_never_reads_val(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = ["start"]
    read = []

    class Watched:
        def __init__(self, split: str) -> None:
            self._scenes = open_dataset("toy-street", split, None, SIZE)
            self.name, self.split, self.labels = "toy-street", split, self._scenes.labels

        def __len__(self) -> int:
            return len(self._scenes)

        def __getitem__(self, index: int) -> LabelledImage:
            read.append((phase[-1], self.split))
            return self._scenes[index]

    @contextmanager
    def bar(what: str, steps: int) -> Iterator[Callable[[], None]]:
        phase.append(what)
        yield lambda: None
        phase.append("between")

    monkeypatch.setattr(dabnet.data.images, "open_dataset", lambda name, split, *_: Watched(split))
    export_onnx(checkpoint, tmp_path / "m.onnx", SPEC, progress=bar)
    assert read == [("calibrating", "train")] * 3 + [("comparing with PyTorch", "val")] * 4


@pytest.mark.slow
def test_fitted_weights_bring_a_trained_network_closer_to_fp32(tmp_path: Path) -> None:
    spec = ExportSpec((128, 256), INT8, calibration_images=3, check_images=4)
    found = []
    for fit in (False, True):
        manifest = export_onnx(
            ROOT / "weights" / "dabnet_toy_street.pth",
            tmp_path / "m.onnx",
            dataclasses.replace(spec, fit_weights=fit),
            progress=no_bar,
        )
        assert manifest.agreement is not None
        found.append(manifest.agreement.mean)
    assert found[0] < found[1] < 1


def test_int8_without_images_of_its_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "public.pth"
    torch.save(seeded_network().state_dict(), path)
    with pytest.raises(InputError, match="INT8 needs images of camvid.*--data-dir"):
        export_onnx(path, tmp_path / "m.onnx", SPEC, dataset="camvid", progress=no_bar)
    assert list(tmp_path.iterdir()) == [path]
