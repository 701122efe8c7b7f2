"""Everything ``inspect`` reads from each kind of file, under JSON keys that stay."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from calibration.calibration_file import Calibration, Subject, save_calibration
from calibration.histogram import StreamingHistogram
from calibration.ranges import METHODS
from dabnet.errors import ArtifactError, DabnetError, InputError
from dabnet.files import sha256_of_file
from dabnet.runtime.manifest import (
    Agreement,
    EngineInfo,
    Manifest,
    PassInfo,
    TensorInfo,
    engine_manifest_path,
)
from dabnet.runtime.trt import foreign
from export.inspection import Inspection, inspect_file, print_inspection
from tests.support.contract_graph import HEIGHT, WIDTH, contract_manifest, write_contract
from tests.support.engine_files import install, scenario_for
from tests.support.seeded_checkpoint import write_checkpoint
from tests.support.tensorrt_double import (
    PLAN,
    FakeDeviceMemory,
    Scenario,
    inspector_json,
    make_double,
)

KEYS = [
    *("file", "kind", "bytes", "sha256", "manifest", "inputs", "outputs"),
    *("precisions", "layers", "ranges", "notes", "plan", "format"),
]


def printed(found: Inspection, layers: bool = False) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        print_inspection(console, found, layers)
    return capture.get()


def test_json_has_the_documented_keys(tmp_path: Path) -> None:
    record = json.loads(json.dumps(asdict(inspect_file(write_contract(tmp_path)))))
    assert list(record) == KEYS
    assert list(record["layers"][0]) == ["name", "operator", "precision"]
    assert record["inputs"] == [
        {"name": "image", "dtype": "uint8", "shape": [1, HEIGHT, WIDTH, 3]},
    ]
    assert record["outputs"] == [{"name": "mask", "dtype": "uint8", "shape": [1, HEIGHT, WIDTH]}]
    assert record["format"] == 2
    manifest = Manifest.from_json(json.dumps(record["manifest"]), "record")
    assert replace(manifest, graph_sha256="") == contract_manifest()
    documented = (Path(__file__).parents[2] / "docs" / "verify_inspect.md").read_text("utf-8")
    assert all(f"`{key}`" in documented for key in KEYS)


def test_an_onnx_file(tmp_path: Path) -> None:
    path = write_contract(tmp_path, "int8")
    found = inspect_file(path)
    assert (found.bytes, found.sha256) == (path.stat().st_size, sha256_of_file(path))
    assert found.precisions == {"int8": 4}
    text = printed(found, layers=True)
    for expected in (
        "calibration.method          fixed",
        "calibration.split           train",
        f"image   input      uint8  1, {HEIGHT}, {WIDTH}, 3",
        "int8              4",
        "third        Conv      int8",
    ):
        assert expected in text, text
    assert "third" not in printed(found)


def test_an_onnx_file_of_another_tool_with_open_sides(tmp_path: Path) -> None:
    path = write_contract(tmp_path)
    model = onnx.load(path)
    del model.metadata_props[:]
    sides = model.graph.input[0].type.tensor_type.shape.dim
    sides[0].dim_param, sides[1].dim_param = "batch", "height"
    sides[2].ClearField("dim_value")
    onnx.save(model, path)
    found = inspect_file(path)
    assert found.manifest is None
    assert found.inputs[0]["shape"] == ("batch", "height", "?", 3)
    assert found.precisions == {"fp32": 4}
    assert "no manifest" in printed(found)


def test_a_checkpoint(tmp_path: Path) -> None:
    found = inspect_file(write_checkpoint(tmp_path))
    assert found.precisions == {"fp32": 60}
    assert found.layers[0] == {
        "name": "init_conv.0.conv",
        "operator": "Conv2d",
        "precision": "fp32",
    }
    assert found.manifest is not None
    assert found.manifest["model"] == "dabnet"
    assert "dataset                     toy-street" in printed(found)
    assert "preprocessing.mean_rgb      99.5, 103.25, 105.75" in printed(found)


def test_a_calibration(tmp_path: Path) -> None:
    seen = StreamingHistogram()
    seen.update(np.linspace(-1, 3, 1000, dtype=np.float32))
    subject = Subject("ab" * 32, "cd" * 32, "tensorrt", (512, 1024))
    origins = {"one.png": "0" * 64, "two.png": "1" * 64}
    file = tmp_path / "calibration.json"
    save_calibration(Calibration(subject, "camvid", "train", origins, {"conv": seen}), file)
    found = inspect_file(file)
    assert found.kind == "calibration"
    assert found.manifest is not None
    assert (found.manifest["split"], found.manifest["images"]) == ("train", 2)
    assert list(found.ranges["conv"]) == ["minimum", "maximum", *METHODS]
    assert found.ranges["conv"]["minmax"] == found.ranges["conv"]["maximum"] == 3
    text = printed(found, layers=True)
    for expected in ("graph_sha256                cdcdcdcdcdcd", "camvid", "conv         -1"):
        assert expected in text, text


def write_engine(folder: Path, version: str) -> Path:
    path = folder / "model.engine"
    path.write_bytes(PLAN)
    info = EngineInfo(
        *("tensorrt", version, "this-gpu", "RTX 3090", "8.6", "580", {"Int8": 3, "Half": 2}),
        profile=((1, 32, 64, 3), (1, 64, 64, 3), (4, 96, 96, 3)),
        compatibility=("hardware",),
        sha256=sha256_of_file(path),
    )
    manifest = replace(
        contract_manifest("int8"),
        input=TensorInfo("image", "uint8", (-1, -1, -1, 3)),
        output=TensorInfo("mask", "uint8", (-1, -1, -1)),
        engine=info,
        passes=(PassInfo("prelu", 7, "exact to 1e-6"),),
        agreement=Agreement("8 images", 0.99, 0.98),
        onnx_sha256="ab" * 32,
    )
    engine_manifest_path(path).write_text(manifest.to_json(), encoding="utf-8")
    return path


def test_an_engine_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that its manifest says; why its layers were not read again."""
    for product in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, product, None)
    found = inspect_file(write_engine(tmp_path, "10.16.1"))
    assert found.precisions == {"int8": 3, "fp16": 2}
    assert found.layers == ()
    text = printed(found)
    for expected in (
        "the package 'tensorrt' is not installed",
        "engine.version              10.16.1",
        "engine.gpu                  RTX 3090",
        "engine.profile              1, 32, 64, 3; 1, 64, 64, 3; 4, 96, 96, 3",
        "engine.compatibility        hardware",
        "passes                      prelu, 7, exact to 1e-6",
        "agreement.mean              0.99",
        "agreement: that of the ONNX file it was built from",
        "onnx_sha256                 abababababab\n",
    ):
        assert expected in text, text


@pytest.mark.parametrize("loads", [True, False])
def test_an_engine_where_its_tensorrt_and_a_gpu_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: bool
) -> None:
    scenario = Scenario(inspector=inspector_json("Int8", "Half", "Half"), loads=loads)
    double = make_double("10.16.1", scenario)
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    monkeypatch.setattr(foreign, "open_device_memory", lambda index: FakeDeviceMemory())
    found = inspect_file(write_engine(tmp_path, double.__version__))
    if loads:
        assert found.precisions == {"fp16": 2, "int8": 1}
        assert [tuple(layer.values()) for layer in found.layers] == [
            ("layer 0", "CaskConvolution", "int8"),
            ("layer 1", "CaskConvolution", "fp16"),
            ("layer 2", "CaskConvolution", "fp16"),
        ]
        assert "read from the engine on this GPU" in printed(found, layers=True)
        assert "layer 2" in printed(found, layers=True)
    else:
        assert found.precisions == {"int8": 3, "fp16": 2}
        assert "tensorrt 10.16.1 refuses it: Serialization assertion failed" in printed(found)


@pytest.mark.parametrize("detailed", [True, False])
def test_an_engine_of_another_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detailed: bool
) -> None:
    """It has no manifest: a GPU reads its tensors, and its layers if they were kept."""
    memory = FakeDeviceMemory()
    layers = inspector_json("Half", "Half", "FP32") if detailed else ""
    install(monkeypatch, "10.16.1", scenario_for(memory, inspector=layers))
    monkeypatch.setattr(foreign, "open_device_memory", lambda index: memory)
    (tmp_path / "lonely.engine").write_bytes(PLAN)
    with pytest.raises(ArtifactError, match="no manifest beside it, and an engine is a program"):
        inspect_file(tmp_path / "lonely.engine")
    found = inspect_file(tmp_path / "lonely.engine", trust=True)
    assert found.manifest is None
    image = {"name": "image", "dtype": "uint8", "shape": (1, HEIGHT, WIDTH, 3)}
    assert found.inputs == (image,)
    assert found.outputs[0]["shape"] == (1, HEIGHT, WIDTH)
    assert found.precisions == ({"fp16": 2, "fp32": 1} if detailed else {})
    text = printed(found)
    assert "no manifest: not built by dabnet-export; loads with tensorrt 10.16.1" in text
    assert ("built without --profilingVerbosity=detailed" in text) is not detailed


def test_what_cannot_be_inspected(tmp_path: Path) -> None:
    path = write_contract(tmp_path)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"dabnet_manifest": "{"})
    onnx.save(model, tmp_path / "damaged.onnx")
    (tmp_path / "lonely.engine").write_bytes(PLAN)
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "some.bin").write_bytes(b"\x00" * 100)
    onnx.save_model(
        onnx.load(path),
        tmp_path / "apart.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (tmp_path / "weights.bin").unlink()
    for name, kind, message in (
        ("damaged.onnx", ArtifactError, "holds no valid manifest"),
        ("lonely.engine", ArtifactError, "no manifest beside it, and an engine is a program"),
        ("apart.onnx", ArtifactError, "in .weights.bin., which is no file"),
        ("empty.onnx", InputError, "empty.onnx' is empty"),
        ("some.bin", ArtifactError, "cannot be read as a checkpoint"),
        ("nowhere.onnx", InputError, "no file at"),
    ):
        with pytest.raises(DabnetError, match=message) as raised:
            inspect_file(tmp_path / name)
        assert isinstance(raised.value, kind)
