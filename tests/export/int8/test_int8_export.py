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
from dabnet.given import Given
from dabnet.precision import INT8
from dabnet.runtime.manifest import Manifest
from export.onnx_export import export_onnx
from export.spec import ExportSpec
from tests.support import ROOT
from tests.support.exported_artifacts import INT8 as SPEC
from tests.support.exported_artifacts import evenly_spaced, layers_in_network, producers
from tests.support.seeded_checkpoint import SIZE, no_bar, seeded_network


class Int8File:
    """The INT8 artifact, by what its tests ask."""

    def __init__(self, path: Path) -> None:
        self.nodes = list(onnx.load(path).graph.node)
        initializers = onnx.load(path).graph.initializer
        self.constants = {item.name: numpy_helper.to_array(item) for item in initializers}
        self.by_output = producers(onnx.load(path))
        self.convolutions = [node for node in self.nodes if node.op_type == "Conv"]

    def readers(self, name: str) -> list[tuple[str, int]]:
        """Operator and place of each input that reads a tensor."""
        return [
            (node.op_type, place)
            for node in self.nodes
            for place, read in enumerate(node.input)
            if read == name
        ]


@pytest.fixture(scope="module")
def int8(artifacts: dict[str, tuple[Path, Manifest]]) -> Int8File:
    return Int8File(artifacts["int8"][0])


def test_every_convolution_reads_rounded_data(int8: Int8File) -> None:
    assert len(int8.convolutions) == layers_in_network(torch.nn.Conv2d)
    for node in int8.convolutions:
        image = int8.by_output[node.input[0]]
        pair = int8.by_output[image.input[0]]
        assert (image.op_type, pair.op_type) == ("DequantizeLinear", "QuantizeLinear")
        assert pair.input[1:] == image.input[1:]  # one scale, one zero point
        assert int8.constants[pair.input[1]].shape == ()


def test_every_convolution_has_int8_weights_and_float_biases(int8: Int8File) -> None:
    for node in int8.convolutions:
        weight = int8.by_output[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        stored, scales = int8.constants[weight.input[0]], int8.constants[weight.input[1]]
        assert stored.dtype == np.int8 and np.abs(stored.astype(int)).max() == 127
        assert scales.dtype == np.float32 and scales.shape == (len(stored),)
        assert {a.name: a.i for a in weight.attribute} == {"axis": 0}
        for bias in node.input[2:]:
            assert int8.constants[bias].dtype == np.float32


def test_qdq_stands_only_before_convolutions(int8: Int8File) -> None:
    activations = {node.input[0] for node in int8.convolutions}
    for node in int8.nodes:
        if node.op_type == "QuantizeLinear":
            assert int8.readers(node.output[0]) == [("DequantizeLinear", 0)]
        if node.op_type == "DequantizeLinear":
            position = 0 if node.output[0] in activations else 1
            assert set(int8.readers(node.output[0])) == {("Conv", position)}
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = int8.constants[node.input[2]]
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
        export_onnx(path, tmp_path / "m.onnx", SPEC, given=Given("camvid"), progress=no_bar)
    assert list(tmp_path.iterdir()) == [path]
