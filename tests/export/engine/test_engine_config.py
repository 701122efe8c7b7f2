"""Every precision and option reaches each version, and no name that it lacks."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from dabnet.errors import BuildError
from dabnet.runtime.manifest import CalibrationInfo, Manifest
from export.engine.engine import build_engine
from export.engine.spec import BuildSpec
from tests.support.contract_graph import add_manifest, contract_manifest, write_contract
from tests.support.engine_builds import (
    FOUND,
    READS,
    build,
    install,
    mask_of,
    scenario_of,
    write_dynamic,
)
from tests.support.tensorrt_double import PLAN, VERSIONS, Scenario, layer_report, make_double

OLD, RTX = "8.6.1", "rtx-1.7.1"
OPTIONS = {
    "plain": {},
    "workspace": {"workspace_mib": 512},
    "same card": {"hardware_compatible": "same-compute-capability"},
    "ampere": {"hardware_compatible": "ampere-plus"},
    "versions": {"version_compatible": True},
    "timings": {"timing_cache": "cache"},
}
LACKING = {  # a version lacks the names, or they have no effect
    **{("same card", version): "expected ampere-plus" for version in (OLD, "10.0.1")},
    ("same card", RTX): "expected TensorRT for hardware-compatible engines",
    ("ampere", RTX): "name all cards in --target",
    ("versions", RTX): "leave the option out, and build again",
    ("timings", RTX): "leave --timing-cache out",
}


everywhere = pytest.mark.parametrize(
    ("version", "precision", "option"),
    [
        (version, precision, option)
        for version, precision, option in itertools.product(VERSIONS, READS, OPTIONS)
        if (option, version) not in LACKING
    ],
)


@pytest.fixture
def built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, precision: str, option: str
) -> tuple[Scenario, Manifest]:
    """What the builder was told, and the manifest."""
    scenario = scenario_of(precision)
    spec = spec_of(tmp_path, precision, option)
    return scenario, build(monkeypatch, tmp_path, version, spec, scenario, (8, 6))


def spec_of(folder: Path, precision: str, option: str) -> BuildSpec:
    options = dict(OPTIONS[option])
    if "timing_cache" in options:
        options["timing_cache"] = folder / "timings"
    return BuildSpec(precision, **options)


@pytest.mark.parametrize("precision", READS)
@pytest.mark.parametrize(("option", "version"), LACKING)
def test_what_a_version_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, precision: str, option: str
) -> None:
    scenario = scenario_of(precision)
    spec = spec_of(tmp_path, precision, option)
    with pytest.raises(BuildError, match=LACKING[option, version]):
        build(monkeypatch, tmp_path, version, spec, scenario, (8, 6))
    assert scenario.calls == []


@everywhere
def test_what_each_version_is_told_of_precision(
    built: tuple[Scenario, Manifest], version: str, precision: str, option: str
) -> None:
    scenario, _ = built
    old = version == OLD
    assert scenario.called("create_network") == [{"EXPLICIT_BATCH" if old else "STRONGLY_TYPED"}]
    flags = [precision.upper()] if old and precision != "fp32" else []
    flags += ["VERSION_COMPATIBLE"] if option == "versions" else []
    assert scenario.called("set_flag") == flags
    assert scenario.called("clear_flag") == ["TF32"]  # of the float layers beside FP16 and INT8 too


@everywhere
def test_what_each_version_is_told_of_options(
    built: tuple[Scenario, Manifest], version: str, precision: str, option: str
) -> None:
    scenario, _ = built
    assert [v.name for v in scenario.called("profiling_verbosity")] == ["DETAILED"]
    assert scenario.called("WORKSPACE") == ([512 << 20] if option == "workspace" else [])
    level = {"same card": ["SAME_COMPUTE_CAPABILITY"], "ampere": ["AMPERE_PLUS"]}.get(option, [])
    assert [v.name for v in scenario.called("hardware_compatibility_level")] == level
    assert scenario.called("engine_host_code_allowed") == ([True] if option == "versions" else [])
    assert scenario.called("set_compute_capability") == (["CURRENT"] if version == RTX else [])
    assert bool(scenario.called("progress_monitor")) is (version != OLD)


@everywhere
def test_what_is_written_of_each_version(
    built: tuple[Scenario, Manifest], tmp_path: Path, version: str, precision: str, option: str
) -> None:
    _, manifest = built
    assert manifest.engine is not None
    assert manifest.engine.layers_by_type == FOUND[precision]
    recorded = {"same card": "same-compute-capability", "ampere": "hardware", "versions": "version"}
    assert manifest.engine.compatibility == ((recorded[option],) if option in recorded else ())
    assert (manifest.engine.target, manifest.engine.profile) == ("this-gpu", ())
    assert manifest.engine.gpu == "NVIDIA Double 3090"
    assert manifest.engine.compute_capability == "8.6"
    assert (tmp_path / "model.engine").read_bytes() == PLAN


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dynamic_file_gets_its_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    scenario = scenario_of("fp32")
    install(monkeypatch, version, scenario)
    source = write_dynamic(tmp_path, dynamic=(0,), mask=mask_of(version))
    spec = BuildSpec("fp32", max_shape=(8, 32, 64))
    manifest = build_engine(source, tmp_path / "model.engine", spec)
    profile = ((1, 32, 64, 3), (1, 32, 64, 3), (8, 32, 64, 3))
    assert scenario.called("add_optimization_profile") == [("image", profile)]
    assert manifest.engine is not None
    assert manifest.engine.profile == profile
    assert manifest.input.shape == (-1, 32, 64, 3)

    scenario.profile_index = -1
    with pytest.raises(BuildError, match="refused the input shapes.*--max-shape"):
        build_engine(source, tmp_path / "model.engine", spec)


def test_targets_go_to_the_builder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scenario = Scenario(log=(("VERBOSE", layer_report("Int8", "Float")),), loads=False)
    spec = BuildSpec("int8", "sm80,sm89")
    manifest = build(monkeypatch, tmp_path, RTX, spec, scenario)
    assert scenario.called("num_compute_capabilities") == [2]
    assert scenario.called("set_compute_capability") == ["SM80", "SM89"]
    assert scenario.memory is None  # no GPU was opened
    assert manifest.engine is not None
    assert manifest.engine.layers_by_type == {"Float": 1, "Int8": 1}


def test_the_double_has_only_the_names_of_its_version() -> None:
    new, old = make_double("11.4.0"), make_double("8.6.1")
    assert not hasattr(new.BuilderFlag, "INT8")
    assert hasattr(old.BuilderFlag, "INT8")
    assert not hasattr(new, "ComputeCapability")
    with pytest.raises(AttributeError):
        new.IBuilderConfig().max_workspace_size = 1
    with pytest.raises(AttributeError):
        new.IBuilderConfig().int8_calibrator = None
    with pytest.raises(AttributeError):
        old.IBuilderConfig().progress_monitor = None
    with pytest.raises(AttributeError):
        new.Runtime(None).get_engine_validity(b"")
    with pytest.raises(NotImplementedError):
        _ = old.ICudaEngine().num_bindings


def test_the_rtx_list_is_that_of_the_installed_package() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    double = make_double(RTX)
    if not real.__version__.startswith(double.__version__):
        pytest.skip("another version is installed")
    for name in ("Builder", "BuilderFlag", "IBuilderConfig", "OnnxParser", "ICudaEngine"):
        names = [n for n in vars(getattr(double, name)) if not n.startswith("_")]
        assert names
        assert [n for n in names if not hasattr(getattr(real, name), n)] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_contexts_share_the_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    """On 8.6 a second context of a dynamic engine, as each CUDA graph has, needs it."""
    scenario = scenario_of("fp32")
    install(monkeypatch, version, scenario, (8, 6))
    source = write_dynamic(tmp_path, mask=mask_of(version))
    build_engine(source, tmp_path / "m.engine", BuildSpec("fp32"))
    assert scenario.called("PROFILE_SHARING_0806") == ([True] if version == OLD else [])


@pytest.mark.parametrize(
    ("version", "placement", "said"),
    [(OLD, "conv-inputs", True), (OLD, "dense-only", False), ("10.16.1", "conv-inputs", False)],
)
def test_an_int8_build_that_fails_on_8_6_names_the_placement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, placement: str, said: bool
) -> None:
    scenario = replace(scenario_of("int8"), plan=None)
    install(monkeypatch, version, scenario, (8, 6))
    source = write_contract(tmp_path, "int8", mask_of(version))
    manifest = contract_manifest("int8", mask_of(version))
    calibration = CalibrationInfo("mse", "camvid", "train", 8, placement=placement)
    manifest = replace(manifest, calibration=calibration)
    model = onnx.load(source)
    add_manifest(model, manifest)
    onnx.save(model, source)
    with pytest.raises(BuildError, match="built no engine") as caught:
        build_engine(source, tmp_path / "m.engine", BuildSpec("int8"))
    assert ("--placement dense-only" in str(caught.value)) is said
