"""The line of trtexec: flags that its source parses, and the same request as the builder's."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from dabnet.errors import ArtifactError, BuildError, DabnetError, InputError
from dabnet.runtime.manifest import Manifest
from export.cli.main import export_group
from export.engine.spec import BuildSpec
from export.engine.trtexec import trtexec_line
from export.onnx_file import load_onnx, manifest_of
from tests.support.contract_graph import write_contract
from tests.support.engine_builds import install, write_dynamic
from tests.support.seeded_checkpoint import write_checkpoint
from tests.support.tensorrt_double import VERSIONS, Scenario

# What BuildOptions::parse and SystemOptions::parse read, of those that a build may need: NVIDIA/
# TensorRT, samples/common/sampleOptions.cpp, of releases 8.6 and 10, and commit d5883286a711 (11).
COMMON = {
    *("onnx", "saveEngine", "skipInference", "noTF32", "profilingVerbosity", "memPoolSize"),
    *("timingCacheFile", "hardwareCompatibilityLevel", "versionCompatible", "device", "preview"),
    *("minShapes", "optShapes", "maxShapes", "refit", "sparsity", "builderOptimizationLevel"),
}
FLAGS = {
    "8.6.1": COMMON | {"fp16", "int8", "fp8", "best", "calib"},
    "10.0.1": COMMON | {"stronglyTyped", "fp16", "int8", "fp8", "bf16", "best", "calib"},
    "10.16.1": COMMON | {"stronglyTyped", "fp16", "int8", "fp8", "bf16", "int4", "best", "calib"},
    "11.4.0": COMMON | {"stronglyTyped"},
    # https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/: inference-library/cpu-engines.html,
    # performance/benchmarking.html and best-practices.html; AmusementClub/vs-mlrt,
    # scripts/vsmlrt.py, passes the last two.
    "rtx-1.7.1": {
        *("onnx", "saveEngine", "skipInference", "profilingVerbosity", "useGpu"),
        *("computeCapabilities", "minShapes", "optShapes", "maxShapes", "device", "memPoolSize"),
    },
}
PREVIEWS = {"8.6.1": "+profileSharing0806"}  # which 10 warns about, and 11 refuses
RTX = "rtx-1.7.1"


def line_of(folder: Path, spec: BuildSpec, source: Path | None = None) -> dict[str, str]:
    """Flag → value of the printed line, and the program under ``""``."""
    source = source or write_contract(folder, spec.onnx_precision, "int32")
    line, _ = trtexec_line(source, folder / "out dir" / "m.engine", described(source), spec)
    program, *flags = shlex.split(line)
    found = {"": program}
    for flag in flags:
        name, _, value = flag.removeprefix("--").partition("=")
        assert flag.startswith("--") and name not in found, flag
        found[name] = value
    return found


def test_the_input_is_no_output(tmp_path: Path) -> None:
    source = write_contract(tmp_path, "fp32", "int32")
    with pytest.raises(InputError, match="is the input; expected another name"):
        trtexec_line(source, source, described(source), BuildSpec("fp32"))


def described(source: Path) -> Manifest:
    return manifest_of(load_onnx(source), str(source))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_knows_the_flags(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, precision: str
) -> None:
    install(monkeypatch, version, Scenario())
    options: dict[str, Any] = {"workspace_mib": 512, "device": 1}
    if version != RTX:
        options |= {"hardware_compatible": "ampere-plus", "version_compatible": True}
        options |= {"timing_cache": tmp_path / "timings"}
    source = write_dynamic(tmp_path, precision, (0,), mask="int32")
    found = line_of(tmp_path, BuildSpec(precision, **options), source)
    assert found.keys() - {""} <= FLAGS[version]
    assert found[""] == ("tensorrt_rtx" if version == RTX else "trtexec")
    assert found["onnx"] == str(source)
    assert found["saveEngine"] == str(tmp_path / "out dir" / "m.engine")
    assert found["memPoolSize"] == "workspace:512"
    assert found["profilingVerbosity"] == "detailed"
    assert (found["minShapes"], found["optShapes"], found["maxShapes"]) == (
        "image:1x32x64x3",
        "image:1x32x64x3",
        "image:2x32x64x3",
    )
    assert found["device"] == "1"
    assert found.get("preview") == PREVIEWS.get(version)
    if version == RTX:
        assert "useGpu" in found
        return
    assert "noTF32" in found  # whatever the precision
    assert found["hardwareCompatibilityLevel"] == "ampere+"
    assert found["timingCacheFile"] == str(tmp_path / "timings")
    assert "versionCompatible" in found
    typed = {"stronglyTyped"} if version != "8.6.1" else {precision} - {"fp32"}
    assert found.keys() & {"stronglyTyped", "fp16", "int8", "calib"} == typed


def test_a_plain_build_has_no_more_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "11.4.0", Scenario())
    found = line_of(tmp_path, BuildSpec("fp32", hardware_compatible="same-compute-capability"))
    assert found.pop("hardwareCompatibilityLevel") == "sameComputeCapability"
    plain = {"onnx", "saveEngine", "skipInference", "noTF32", "stronglyTyped", "profilingVerbosity"}
    assert found.keys() == {"", *plain}


def test_targets_of_rtx_and_what_its_program_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, RTX, Scenario())
    spec, source = BuildSpec("fp16", "sm86,sm120"), write_contract(tmp_path, "fp16")
    found = line_of(tmp_path, spec, source)
    assert found["computeCapabilities"] == "86,120" and "useGpu" not in found
    _, notes = trtexec_line(source, tmp_path / "m.engine", described(source), spec)
    assert any("TF32" in note for note in notes)


@pytest.mark.parametrize("version", ["8.6.1", "10.16.1"])
def test_a_calibration_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str) -> None:
    """trtexec reads ranges for the entropy calibrator, and takes random images without them."""
    install(monkeypatch, version, Scenario())
    cache, options = tmp_path / "ranges", {"calibrator": "entropy"}
    with pytest.raises(InputError, match="trtexec takes random ones; expected a --calibration-cac"):
        line_of(tmp_path, BuildSpec("int8", **options))
    cache.write_bytes(b"TRT-8601-EntropyCalibration2\n")
    found = line_of(tmp_path, BuildSpec("int8", calibration_cache=cache, **options))
    assert found["calib"] == str(cache)
    assert found.keys() & {"stronglyTyped", "fp16", "int8"} == {"int8"}
    with pytest.raises(InputError, match="expected entropy, the only calibrator of trtexec"):
        line_of(tmp_path, BuildSpec("int8", calibrator="minmax", calibration_cache=cache))


def test_without_any_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    source = write_contract(tmp_path)
    line, notes = trtexec_line(source, tmp_path / "m", described(source), BuildSpec("fp32"))
    assert line.startswith("trtexec ") and "--stronglyTyped" in line
    assert any("this line is for TensorRT 10" in note for note in notes)
    found = line_of(tmp_path, BuildSpec("fp32", "sm89"))
    assert (found[""], found["computeCapabilities"]) == ("tensorrt_rtx", "89")
    with pytest.raises(BuildError, match="--timing-cache with tensorrt_rtx; expected TensorRT"):
        line_of(tmp_path, BuildSpec("fp32", product="tensorrt_rtx", timing_cache=tmp_path / "t"))


@pytest.mark.parametrize(
    ("version", "spec", "error", "message"),
    [
        ("11.4.0", BuildSpec("fp16"), ArtifactError, "is fp32; expected fp16"),
        ("11.4.0", BuildSpec("int8", calibrator="entropy"), BuildError, "Q/DQ"),
        ("10.16.1", BuildSpec("fp32", opt_shape=(1, 32, 64)), InputError, "fixed shape"),
        (RTX, BuildSpec("fp32", timing_cache=Path("t")), BuildError, "leave --timing-cache out"),
        ("8.6.1", BuildSpec("fp32"), BuildError, "cannot emit uint8"),
    ],
)
def test_what_a_build_refuses_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    version: str,
    spec: BuildSpec,
    error: type[DabnetError],
    message: str,
) -> None:
    install(monkeypatch, version, Scenario())
    with pytest.raises(error, match=message):
        line_of(tmp_path, spec, write_contract(tmp_path))


def test_the_command_prints_and_builds_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = Scenario()
    opened = install(monkeypatch, "10.16.1", scenario)
    source, engine = write_contract(tmp_path), tmp_path / "m.engine"
    arguments = ["trt", str(source), "-o", str(engine), "--print-trtexec", "--device", "cuda:2"]
    export_group.main(arguments, standalone_mode=False)
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    assert shlex.split(line)[:2] == ["trtexec", f"--onnx={source}"]
    assert shlex.split(line)[-1] == "--device=2"
    assert "has no manifest" in said.err
    assert (opened, scenario.calls) == ([], [])
    assert list(tmp_path.iterdir()) == [source]
    arguments[1] = str(write_checkpoint(tmp_path))
    with pytest.raises(InputError, match="expected an ONNX file; export it first with: dabnet-exp"):
        export_group.main(arguments, standalone_mode=False)
