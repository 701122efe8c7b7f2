"""What ``inspect`` reads from each kind of artifact, and that its JSON keys stay."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from rich.console import Console

import export.inspection.artifact as inspect_artifact_module
from dabnet.checkpoint import load_checkpoint
from dabnet.errors import ArtifactError, DabnetError, InputError
from dabnet.files import sha256_of_file
from dabnet.models.summary import summarise
from dabnet.runtime.manifest import (
    Agreement,
    EngineInfo,
    Manifest,
    PassInfo,
    engine_manifest_path,
)
from export.inspection.artifact import Inspection, inspect_artifact
from export.inspection.report import print_inspection
from tests.support.contract_graph import HEIGHT, WIDTH, contract_manifest, write_contract
from tests.support.seeded_checkpoint import write_checkpoint
from tests.support.tensorrt_double import PLAN, Scenario, inspector_json, make_double

KEYS = [
    *("file", "kind", "bytes", "sha256", "manifest", "checkpoint", "inputs", "outputs"),
    *("operators", "precisions", "layers", "parameters", "example", "multiply_adds", "opset"),
    *("ir_version", "producer", "notes", "format"),
]
LAYER_KEYS = ["name", "operator", "precision", "output_shape", "parameters", "multiply_adds"]


def printed(found: Inspection, layers: bool = False) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        print_inspection(console, found, layers)
    return capture.get()


def test_json_has_the_documented_keys(tmp_path: Path) -> None:
    record = json.loads(json.dumps(inspect_artifact(write_contract(tmp_path)).record()))
    assert list(record) == KEYS
    assert list(record["layers"][0]) == LAYER_KEYS
    assert record["inputs"] == [
        {"name": "image", "dtype": "uint8", "shape": [1, HEIGHT, WIDTH, 3]},
    ]
    assert record["outputs"] == [{"name": "mask", "dtype": "uint8", "shape": [1, HEIGHT, WIDTH]}]
    assert record["format"] == 1
    assert Manifest.from_json(json.dumps(record["manifest"]), "record") == contract_manifest()
    documented = inspect_artifact_module.Inspection.__doc__ or ""
    assert all(key in documented for key in KEYS)


def test_an_onnx_file(tmp_path: Path) -> None:
    path = write_contract(tmp_path, "int8")
    found = inspect_artifact(path)
    model = onnx.load(path)
    assert found.operators == {
        kind: sum(node.op_type == kind for node in model.graph.node)
        for kind in {node.op_type for node in model.graph.node}
    }
    assert (found.bytes, found.sha256) == (path.stat().st_size, sha256_of_file(path))
    assert (found.precisions, found.opset, found.ir_version) == ({"int8": 4}, {"ai.onnx": 17}, 8)
    assert found.example == (1, HEIGHT, WIDTH)
    text = printed(found, layers=True)
    for expected in (
        "ranges         fixed of 1 images of noise train",
        "DequantizeLinear      8",
        "third        Conv      int8         1x16x16x32         160             0.07",
        f"{found.parameters:,} parameters",
        f"1x{HEIGHT}x{WIDTH} (NxHxW)",
    ):
        assert expected in text, text


def test_an_onnx_file_of_another_tool_with_open_sides(tmp_path: Path) -> None:
    path = write_contract(tmp_path)
    fixed = inspect_artifact(path)
    model = onnx.load(path)
    del model.metadata_props[:]
    for axis, side in enumerate(("batch", "height", "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = side
    onnx.save(model, path)
    found = inspect_artifact(path)
    assert (found.manifest, found.example, found.multiply_adds) == (None, None, None)
    assert found.inputs[0].shape == ("batch", "height", "width", 3)
    assert "no manifest" in printed(found)
    assert "name one with --size" in printed(found)
    at_size = inspect_artifact(path, (HEIGHT, WIDTH))
    assert at_size.example == (1, HEIGHT, WIDTH)
    assert at_size.multiply_adds == fixed.multiply_adds


def test_a_checkpoint(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path)
    found = inspect_artifact(path, (64, 96))
    rows = summarise(load_checkpoint(path).network(), (64, 96))
    assert found.multiply_adds == sum(row.multiply_adds for row in rows)
    assert found.parameters == sum(row.parameters for row in rows)
    assert found.operators["Conv2d"] == 60
    assert found.checkpoint is not None
    assert found.checkpoint["model"] == "dabnet"
    assert found.checkpoint["dataset"] == "toy-street"
    assert "dabnet, trained on toy-street, epoch 0" in printed(found)


def write_engine(folder: Path, version: str) -> Path:
    path = folder / "model.engine"
    path.write_bytes(PLAN)
    info = EngineInfo(
        *("tensorrt", version, "this-gpu", "RTX 3090", "8.6", "580", {"Int8": 3, "Half": 2}),
        profile=((1, 32, 64, 3), (1, 64, 64, 3), (4, 96, 96, 3)),
        compatibility=("hardware",),
    )
    manifest = replace(
        contract_manifest("int8"),
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
    found = inspect_artifact(write_engine(tmp_path, "10.16.1"))
    assert found.precisions == {"int8": 3, "fp16": 2}
    assert (found.layers, found.parameters, found.multiply_adds) == ((), None, None)
    text = printed(found)
    for expected in (
        "the package 'tensorrt' is not installed",
        "tensorrt 10.16.1 for this-gpu",
        "RTX 3090, compute capability 8.6, driver 580",
        "smallest 1x32x64x3, best 1x64x64x3, largest 4x96x96x3",
        "other GPUs",
        "prelu, 7 places (exact to 1e-6)",
        "its ONNX file gives 99.000 %",
        "abababababab",
    ):
        assert expected in text, text


@pytest.mark.parametrize("loads", [True, False])
def test_an_engine_where_its_tensorrt_and_a_gpu_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: bool
) -> None:
    scenario = Scenario(inspector=inspector_json("Int8", "Half", "Half"), loads=loads)
    double = make_double("10.16.1", scenario)
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    monkeypatch.setattr(inspect_artifact_module, "gpu_unavailable_reason", lambda: None)
    found = inspect_artifact(write_engine(tmp_path, double.__version__))
    if loads:
        assert found.precisions == {"fp16": 2, "int8": 1}
        assert [(x.name, x.operator, x.precision) for x in found.layers] == [
            ("layer 0", "CaskConvolution", "int8"),
            ("layer 1", "CaskConvolution", "fp16"),
            ("layer 2", "CaskConvolution", "fp16"),
        ]
        assert "read from the engine on this GPU" in printed(found, layers=True)
        assert "layer 2" in printed(found, layers=True)
    else:
        assert found.precisions == {"int8": 3, "fp16": 2}
        assert "tensorrt refuses it: Serialization assertion failed" in printed(found)


def test_what_cannot_be_inspected(tmp_path: Path) -> None:
    path = write_contract(tmp_path)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"dabnet_manifest": "{"})
    onnx.save(model, tmp_path / "damaged.onnx")
    (tmp_path / "lonely.engine").write_bytes(PLAN)
    (tmp_path / "empty.onnx").touch()
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
        ("lonely.engine", ArtifactError, "no manifest at .*lonely.engine.json"),
        ("apart.onnx", ArtifactError, "its weights lie in a file that is missing"),
        ("empty.onnx", InputError, "empty.onnx' is empty"),
        ("some.bin", ArtifactError, "cannot be read as a checkpoint"),
        ("nowhere.onnx", InputError, "no file at"),
    ):
        with pytest.raises(DabnetError, match=message) as raised:
            inspect_artifact(tmp_path / name)
        assert isinstance(raised.value, kind)
    with pytest.raises(InputError, match=f"--size 8x8, but .* takes {HEIGHT}x{WIDTH} only"):
        inspect_artifact(path, (8, 8))
