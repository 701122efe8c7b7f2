"""Engines built for real with TensorRT-RTX, and what is written of any build."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from calibration.calibrate import calibrate, quantize
from calibration.calibration_file import Subject, graph_sha256
from dabnet.errors import ArtifactError, BuildError, InputError
from dabnet.files import sha256_of_file
from dabnet.runtime.manifest import Manifest, TensorInfo, engine_manifest_path
from export.engine.engine import build_engine
from export.engine.spec import BuildSpec
from export.onnx_file import load_onnx, manifest_of
from export.passes.float16 import to_float16
from export.passes.scale_image import scale_image
from tests.support.contract_graph import (
    add_manifest,
    contract_manifest,
    export_network,
    write_contract,
)
from tests.support.engine_builds import build, nothing_was_written, scenario_of, write_dynamic
from tests.support.listed_images import sized_image
from tests.support.seeded_checkpoint import seeded_network
from tests.support.tensorrt_double import Scenario

KIND = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}
SIZE = (32, 64)
TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm86,sm89")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", KIND)
def test_rtx_builds_the_precision_that_was_asked_for(
    tmp_path: Path, precision: str, target: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = write_contract(tmp_path, precision)
    output, said = tmp_path / "model.engine", []
    if (precision, target) == ("int8", "sm75"):  # it computes in float there
        with pytest.raises(BuildError, match="no layer computes in Int8.*use a float precision"):
            build_engine(source, output, BuildSpec(precision, target))
        assert nothing_was_written(tmp_path)
        return
    manifest = build_engine(source, output, BuildSpec(precision, target), said.append)
    assert manifest.engine is not None
    layers = manifest.engine.layers_by_type
    if precision == "int8":
        assert layers["Int8"] == 4, layers  # the four convolutions, and nothing else
    else:
        assert layers[KIND[precision]] >= 4, layers
        assert {"Float", "Half", "Int8"} & layers.keys() == {KIND[precision]}
    assert any(target in text for text in said)


def test_rtx_manifest_of_an_engine_for_another_card(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    source, output = write_contract(tmp_path), tmp_path / "model.engine"
    manifest = build_engine(source, output, BuildSpec("fp32", "sm86"))
    assert manifest.engine is not None
    assert (manifest.engine.product, manifest.engine.target) == ("tensorrt_rtx", "sm86")
    assert (manifest.engine.gpu, manifest.engine.compute_capability) == ("", "")
    assert manifest.engine.compatibility == ()
    assert manifest.onnx_sha256 == sha256_of_file(source)
    assert manifest.libraries["tensorrt_rtx"] == manifest.engine.version
    assert output.stat().st_size > 10_000
    stored = engine_manifest_path(output).read_text(encoding="utf-8")
    assert Manifest.from_json(stored, "test") == manifest


@pytest.mark.parametrize("precision", KIND)
def test_rtx_builds_dynamic_sides(tmp_path: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = write_dynamic(tmp_path, precision)
    spec = BuildSpec(precision, "sm86", max_shape=(4, 64, 128))
    manifest = build_engine(source, tmp_path / "m.engine", spec)
    assert manifest.engine is not None
    assert manifest.engine.profile == ((1, 16, 32, 3), (1, 32, 64, 3), (4, 64, 128, 3))
    assert manifest.input.shape == (-1, -1, -1, 3)
    assert manifest.engine.layers_by_type[KIND[precision]] >= 4
    stored = engine_manifest_path(tmp_path / "m.engine").read_text(encoding="utf-8")
    assert Manifest.from_json(stored, "test") == manifest


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DABNet with seeded weights, exported at 32×64 in FP32."""
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path_factory.mktemp("network") / "dabnet.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's legacy exporter
        return export_network(seeded_network(), contract_manifest(), path, *SIZE)


def int8_with(model: ir.Model, placement: str, rest: str) -> onnx.ModelProto:
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    model, _ = scale_image(model)
    subject = Subject("0", graph_sha256(model), "portable", SIZE)
    images = [sized_image("noise", pixels)]
    seen = calibrate(model, images, subject, dataset="noise", split="train")
    half = rest == "fp16"
    quantized, _ = quantize(model, seen.ranges("mse"), placement=placement, half_scales=half)
    if not half:
        return ir.to_proto(quantized)
    largest = {name: h.absolute_maximum for name, h in seen.histograms.items()}
    return ir.to_proto(to_float16(quantized, largest=largest)[0])


@pytest.mark.parametrize(
    ("placement", "rest", "target", "convolutions"),
    [("conv-inputs", "fp16", "sm120", 60), ("all", "fp32", "sm80", 60)],
)
def test_rtx_builds_each_placement(
    network: Path, tmp_path: Path, placement: str, rest: str, target: str, convolutions: int
) -> None:
    """Its convolutions are int8 in the engine that was really built.

    "dense-only" with the rest in FP16: tests/export/engine/test_plan.py.
    """
    layers = layers_of(network, tmp_path, int8_with(load_onnx(network), placement, rest), target)
    assert layers["Int8"] >= convolutions
    assert placement == "all" or layers["Int8"] == convolutions
    assert ("Half" in layers) == (rest == "fp16")


def layers_of(
    network: Path, folder: Path, model: onnx.ModelProto, target: str, precision: str = "int8"
) -> dict[str, int]:
    """Build the engine and return what it says of its layers."""
    manifest = replace(manifest_of(load_onnx(network), "network"), precision=precision)
    add_manifest(model, manifest)
    onnx.save(model, folder / "dabnet.onnx")
    spec = BuildSpec(precision, target)
    built = build_engine(folder / "dabnet.onnx", folder / "m.engine", spec)
    assert built.engine is not None
    return built.engine.layers_by_type


def test_rtx_builds_the_network_in_fp16(network: Path, tmp_path: Path) -> None:
    """FP32: tests/export/test_export_cli.py."""
    model = ir.to_proto(to_float16(load_onnx(network))[0])
    layers = layers_of(network, tmp_path, model, "sm86", "fp16")
    assert layers["Half"] >= 60  # each convolution
    assert not {"Float", "Int8"} & layers.keys()


def test_rtx_says_why_it_cannot_parse(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = write_contract(tmp_path, "fp32", order="transpose-first")
    with pytest.raises(BuildError, match="cannot parse.*input has type UInt8") as caught:
        build_engine(source, tmp_path / "m.engine", BuildSpec("fp32", "sm86"))
    assert "\n" not in str(caught.value)
    assert nothing_was_written(tmp_path)


def test_rtx_says_why_it_built_nothing(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = write_contract(tmp_path)
    with pytest.raises(BuildError, match="workspace limit.*raise --workspace-mib"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("fp32", "sm86", workspace_mib=1))
    assert nothing_was_written(tmp_path)


# --- what is written, and what is read ----------------------------------------------------------


OLD_MANIFEST = '{"input": 1, "output": 2, "precision": "fp32", "preprocessing": 3}'


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_failed_rename_leaves_what_was_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: int, earlier: bool
) -> None:
    engine, manifest = tmp_path / "model.engine", tmp_path / "model.engine.json"
    if earlier:
        engine.write_bytes(b"ftrt old engine")
        manifest.write_text(OLD_MANIFEST, encoding="utf-8")
    calls = 0
    rename = Path.replace

    def replace(source: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(28, "No space left on device")
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(InputError, match="could not be written .No space left on device"):
        build(monkeypatch, tmp_path, "10.16.1", BuildSpec("fp32"), scenario_of("fp32"))
    if earlier:
        assert (engine.read_bytes(), manifest.read_text()) == (b"ftrt old engine", OLD_MANIFEST)
        assert len(list(tmp_path.iterdir())) == 3  # and the ONNX file
    else:
        assert nothing_was_written(tmp_path)


def test_onnx_without_or_with_a_foreign_manifest(tmp_path: Path) -> None:
    source = write_contract(tmp_path, "fp32", declared="int8")
    with pytest.raises(ArtifactError, match=r"is int8; expected fp32.*--precision fp32"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("fp32"))
    with pytest.raises(ArtifactError, match="is int8; expected fp32 for an INT8 calibrator"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("int8", calibrator="entropy"))
    model = onnx.load(str(source))
    floats = replace(contract_manifest(), input=TensorInfo("image", "float32", (1, 3, 32, 64)))
    add_manifest(model, floats)
    onnx.save(model, str(source))
    with pytest.raises(ArtifactError, match="takes float32; expected uint8 images for an INT8"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("int8", calibrator="entropy"))
    del model.metadata_props[:]
    onnx.save(model, str(source))
    with pytest.raises(ArtifactError, match="carries no manifest.*dabnet-export onnx"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("fp32"))
    source.write_bytes(b"no protobuf")
    with pytest.raises(ArtifactError, match="cannot be read as ONNX"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("fp32"))
    with pytest.raises(InputError, match="no file at"):
        build_engine(tmp_path / "none.onnx", tmp_path / "m.engine", BuildSpec("fp32"))


def test_a_cache_is_no_other_file_of_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both = tmp_path / "cache"
    for name, fault in (
        ("model.engine", "for the timing cache and for the engine"),
        ("model.engine.json", "for its manifest"),
        ("contract-fp32-uint8.onnx", "is the input itself"),
        ("none/cache", "does not exist"),
    ):
        spec = BuildSpec("fp32", timing_cache=tmp_path / name)
        with pytest.raises(InputError, match=fault.replace("for its", "and for its")):
            build(monkeypatch, tmp_path, "10.16.1", spec, Scenario())
    spec = BuildSpec("int8", timing_cache=both, calibrator="minmax", calibration_cache=both)
    with pytest.raises(InputError, match="for the calibration cache and for the timing cache"):
        build(monkeypatch, tmp_path, "10.16.1", spec, Scenario())
    assert nothing_was_written(tmp_path)
