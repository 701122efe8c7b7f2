"""ONNX files and engines without a manifest: described by their user, or asked for in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dabnet.artifact import (
    ENGINE,
    Artifact,
    Description,
    describe,
    open_artifact,
    predict,
    predict_with_confidence,
)
from dabnet.errors import ArtifactError, DabnetError, InputError
from dabnet.file_kind import kind_of
from dabnet.preprocessing import Preprocessing
from dabnet.runtime.manifest import Manifest, engine_manifest_path
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.trt import foreign
from dabnet.runtime.trt import runner as tensorrt_runner
from tests.support.contract_graph import CLASSES, HEIGHT, WIDTH, contract_model, write_contract
from tests.support.contract_variants import write_dynamic, write_raw
from tests.support.engine_files import images, install, scenario_for
from tests.support.tensorrt_double import PLAN, FakeDeviceMemory, inspector_json

COLOURS = tuple((10 * i, i, 0) for i in range(CLASSES))
NAMES = tuple(f"class {i}" for i in range(CLASSES))
OURS = Description(NAMES, COLOURS)
ZERO = Preprocessing((0.0, 0.0, 0.0))  # the raw graph subtracts its mean itself
FLOATS = Description(NAMES, COLOURS, preprocessing=ZERO)


def bare(path: Path) -> Path:
    """Take the manifest away."""
    model = onnx.load(str(path))
    del model.metadata_props[:]
    onnx.save(model, str(path))
    return path


def write_int64(folder: Path) -> Path:
    """The mask as ArgMax gives it, its sides open: what a plain export of PyTorch writes."""
    model = contract_model()
    del model.graph.node[-1]
    sides = ["batch", "height", "width"]
    model.graph.node[-1].output[0] = "mask"
    output = helper.make_tensor_value_info("mask", TensorProto.INT64, sides)
    model.graph.output[0].CopyFrom(output)
    onnx.save(model, str(folder / "int64.onnx"))
    return folder / "int64.onnx"


@pytest.mark.parametrize(
    ("write", "description", "shape"),
    [
        (write_contract, OURS, (1, HEIGHT, WIDTH, 3)),
        (write_int64, OURS, (1, HEIGHT, WIDTH, 3)),
        (write_raw, FLOATS, (1, 3, HEIGHT, WIDTH)),
        (write_dynamic, Description(NAMES, COLOURS, (HEIGHT, WIDTH)), (-1, -1, -1, 3)),
    ],
)
def test_an_onnx_file_of_another_tool_gives_its_masks(
    tmp_path: Path,
    write: Callable[[Path], Path],
    description: Description,
    shape: tuple[int, ...],
) -> None:
    expected = OnnxRuntimeRunner(write_contract(tmp_path), threads=1).infer(images(3))
    path = bare(write(tmp_path))
    runner = open_artifact(path, description=description, threads=1)
    masks = predict(runner, images(3))
    assert masks.dtype == np.uint8
    assert np.array_equal(masks, expected)
    assert runner.info.shape == shape
    manifest = runner.manifest
    assert manifest == Artifact.open(path, description).manifest
    assert (manifest.classes, manifest.palette, manifest.size) == (NAMES, COLOURS, (HEIGHT, WIDTH))
    assert manifest.is_described and manifest.model == "unknown (described by its user)"
    assert manifest.agreement is None
    assert Manifest.from_json(manifest.to_json(), "an engine of it").is_described


def test_confidences_of_files_of_another_tool(tmp_path: Path) -> None:
    """One that gives them, of any order of its outputs, and one that gives logits."""
    expected = OnnxRuntimeRunner(write_contract(tmp_path, confidence=True), threads=1)
    wanted = expected.infer_with_confidence(images(3))
    path = bare(write_contract(tmp_path, confidence=True))
    model = onnx.load(path)
    model.graph.output.extend([model.graph.output.pop(0)])
    onnx.save(model, path)
    for file, description in ((path, OURS), (bare(write_raw(tmp_path)), FLOATS)):
        runner = open_artifact(file, description=description, threads=1)
        found = predict_with_confidence(runner, images(3))
        assert (found.mask == wanted.mask).mean() > 0.999
        assert np.abs(found.confidence.astype(int) - wanted.confidence).max() <= 1
    alone = open_artifact(bare(write_contract(tmp_path)), description=OURS, threads=1)
    with pytest.raises(InputError, match="gives no confidence"):
        predict_with_confidence(alone, images(3))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_precision_is_that_of_the_graph(tmp_path: Path, precision: str) -> None:
    path = bare(write_contract(tmp_path, precision))
    manifest = Artifact.open(path, OURS).manifest
    assert manifest is not None and manifest.precision == precision


def test_a_file_that_says_what_it_is_needs_no_description(tmp_path: Path) -> None:
    path = write_contract(tmp_path)
    runner = open_artifact(path, description=describe(dataset="camvid"), threads=1)
    assert runner.manifest == Artifact.open(path).manifest
    assert len(runner.manifest.classes) == CLASSES


@pytest.mark.parametrize(
    ("write", "description", "asked"),
    [
        (write_contract, None, "describe it with --dataset or --classes$"),
        (write_raw, None, "describe it with --dataset or --classes, and --mean$"),
        (write_dynamic, None, "describe it with --dataset or --classes, and --size$"),
        (write_dynamic, OURS, "describe it with --size$"),
        (write_raw, OURS, "describe it with --mean$"),
    ],
)
def test_what_is_missing_is_asked_for(
    tmp_path: Path, write: Callable[[Path], Path], description: Description | None, asked: str
) -> None:
    with pytest.raises(ArtifactError, match=rf"carries no manifest; .*{asked}") as caught:
        open_artifact(bare(write(tmp_path)), description=description, threads=1)
    assert "\n" not in str(caught.value)


def test_a_mean_is_for_floats(tmp_path: Path) -> None:
    """The file's own preprocessing would be used, and the option ignored without a word."""
    path = bare(write_contract(tmp_path))
    description = describe(dataset="camvid", mean=(1.0, 2.0, 3.0))
    with pytest.raises(ArtifactError, match="--mean for .*uint8 images; .*leave --mean and --sc"):
        open_artifact(path, description=description, threads=1)


def planes(kind: int, sides: list[Any], name: str = "x") -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, sides)


def write_graph(path: Path, inputs: list[Any], output: Any, *more: Any) -> Path:
    """A file whose tensors do not fit; what it computes does not matter."""
    names = [value.name for value in inputs]
    nodes = [helper.make_node("Made", names, [out.name], domain="x") for out in (output, *more)]
    graph = helper.make_graph(nodes, "g", inputs, [output, *more])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("x", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), str(path))
    return path


U8, F32, F16, I64 = (getattr(TensorProto, n) for n in ("UINT8", "FLOAT", "FLOAT16", "INT64"))
NCHW, NHWC, MASK = [1, 3, 32, 64], [1, 32, 64, 3], planes(I64, [1, 32, 64], "y")
MISFITS = {
    "two inputs": ([planes(F32, NCHW), planes(F32, [1], "z")], MASK, "expected one uint8"),
    "half floats": ([planes(F16, NCHW)], MASK, "x float16 .*expected one uint8"),
    "planes of bytes": ([planes(U8, NCHW)], MASK, r"takes uint8 images .*\(N, H, W, 3\), three"),
    "four channels": ([planes(F32, [1, 4, 32, 64])], MASK, r"expected \(N, 3, H, W\), three"),
    "three sides": ([planes(F32, [3, 32, 64])], MASK, "expected one uint8"),
    "coarse logits": (
        [planes(F32, NCHW)],
        planes(F32, [1, CLASSES, 4, 8], "y"),
        r"logits of 5 classes of the image's size: \[1, 5, 32, 64\]",
    ),
    "other classes": (
        [planes(F32, NCHW)],
        planes(F32, [1, 19, 32, 64], "y"),
        r"gives y of the shape \[1, 19, 32, 64\]; expected logits of 5 classes",
    ),
    "a mask with channels": (
        [planes(U8, NHWC)],
        planes(I64, [1, 1, 32, 64], "y"),
        "expected one uint8",
    ),
    "a turned mask": ([planes(U8, NHWC)], planes(I64, [1, 64, 32], "y"), "expected a mask of the"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_one_line(tmp_path: Path, case: str) -> None:
    inputs, output, message = MISFITS[case]
    path = write_graph(tmp_path / "net.onnx", inputs, output)
    with pytest.raises(ArtifactError, match=message) as caught:
        Artifact.open(path, FLOATS).manifest  # noqa: B018
    assert "\n" not in str(caught.value)


def test_more_that_does_not_fit(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "n.onnx", [planes(U8, NHWC)], MASK, planes(F32, NCHW, "z"))
    with pytest.raises(ArtifactError, match="y int64 .*, z float32 .*; expected one uint8"):
        Artifact.open(path, OURS).manifest  # noqa: B018
    path = bare(write_contract(tmp_path))
    with pytest.raises(ArtifactError, match="--size 64x64 for .*; expected 32x64"):
        open_artifact(path, description=Description(NAMES, COLOURS, (64, 64)))


def test_a_description_from_a_data_set_or_a_file(tmp_path: Path) -> None:
    camvid = describe(dataset="camvid", size=(360, 480))
    assert camvid.classes[0] == "sky" and camvid.size == (360, 480) and camvid.ignore == 11
    assert camvid.preprocessing == Preprocessing((99.625404, 103.329834, 105.65775))
    assert describe(dataset="camvid", mean=(1, 2, 3)).preprocessing == Preprocessing((1, 2, 3))
    file = tmp_path / "own.txt"
    file.write_text("0 0 0 road\n9 9 9 rest\n", encoding="utf-8")
    own = describe(classes=file, mean=(1.0, 2.0, 3.0), scale=(0.5, 0.5, 0.5))
    assert (own.classes, own.palette, own.dataset) == (
        ("road", "rest"),
        ((0, 0, 0), (9, 9, 9)),
        "folder",
    )
    assert own.preprocessing == Preprocessing((1.0, 2.0, 3.0), (0.5, 0.5, 0.5))
    for wrong in (
        {"dataset": "camvid", "classes": file},
        {"scale": (1, 1, 1)},
        {"mean": (1, 1, 1), "scale": (1, 0, 1)},
        {"dataset": "x"},
    ):
        with pytest.raises(InputError):
            describe(**wrong)  # type: ignore[arg-type]


# --- engines ------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """The double's plan alone, as trtexec would leave it."""
    path = tmp_path / "model.engine"
    path.write_bytes(PLAN)
    return path


def place(monkeypatch: pytest.MonkeyPatch, version: str, **changes: Any) -> FakeDeviceMemory:
    """One TensorRT, and a GPU on which an engine runs."""
    memory = FakeDeviceMemory()
    install(monkeypatch, version, scenario_for(memory, **changes))
    for module in (foreign, tensorrt_runner):
        monkeypatch.setattr(module, "open_device_memory", lambda index=0: memory)
    return memory


@pytest.mark.parametrize("version", ["8.6.1", "10.16.1", "11.4.0", "rtx-1.7.1"])
def test_an_engine_of_trtexec_gives_its_masks(
    monkeypatch: pytest.MonkeyPatch, engine: Path, version: str
) -> None:
    mask = "int32" if version == "8.6.1" else "uint8"
    place(monkeypatch, version, mask=mask)
    runner = open_artifact(engine, "cuda:0", description=OURS, trust=True)
    assert np.array_equal(predict(runner, images(2)), images(2)[..., 0] % CLASSES)
    manifest = runner.manifest
    assert manifest.is_described and manifest.size == (HEIGHT, WIDTH)
    assert manifest.precision == "unknown"  # built without the details of its layers
    assert manifest.engine is not None and manifest.engine.target == "unknown"
    assert not engine_manifest_path(engine).exists()
    runner.close()


def test_the_size_and_the_precision_of_an_engine_are_its_own(
    monkeypatch: pytest.MonkeyPatch, engine: Path
) -> None:
    tensors = (
        ("x", "float32", (-1, 3, -1, -1), "INPUT"),
        ("y", "float32", (-1, CLASSES, -1, -1), "OUTPUT"),
    )
    profile = ((1, 3, 32, 64), (2, 3, 64, 96), (4, 3, 96, 128))
    layers = inspector_json("Half", "Half", "FP32")
    place(monkeypatch, "10.16.1", tensors=tensors, profile=profile, inspector=layers)
    with pytest.raises(ArtifactError, match="carries no manifest; .*describe it with --mean$"):
        Artifact.open(engine, OURS, trust=True).manifest  # noqa: B018
    manifest = Artifact.open(engine, FLOATS, trust=True).manifest
    assert manifest is not None and manifest.engine is not None
    assert (manifest.size, manifest.precision) == ((64, 96), "fp16")
    assert manifest.engine.profile == profile
    assert manifest.engine.layers_by_type == {"Float": 1, "Half": 2}


def test_an_engine_that_nothing_describes_or_loads(
    monkeypatch: pytest.MonkeyPatch, engine: Path
) -> None:
    asked = r"no manifest at .*model.engine.json'; .*with --dataset or --classes, and --trust$"
    for open_it in (lambda: open_artifact(engine), lambda: Artifact.open(engine).manifest):
        with pytest.raises(ArtifactError, match=asked):
            open_it()
    for device in ("cuda:0", "cpu"):  # an engine is a program
        with pytest.raises(ArtifactError, match="has no manifest beside it.*--trust"):
            open_artifact(engine, device, description=OURS)
    memory = place(monkeypatch, "10.16.1", loads=False)
    refused = r"does not load on NVIDIA Double 3090 \(tensorrt 10.16.1 refuses it: Serializ"
    with pytest.raises(ArtifactError, match=refused) as caught:
        open_artifact(engine, description=OURS, trust=True)
    assert "\n" not in str(caught.value)
    assert memory.opened == 0
    with pytest.raises(DabnetError, match="device 'cpu' for the engine"):
        open_artifact(engine, "cpu", description=OURS, trust=True)


@pytest.mark.parametrize("start", [b"ftrt", b"vtrt"])
def test_an_engine_is_known_by_its_first_bytes(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(start + bytes(60))
    assert kind_of(path) == ENGINE
