"""Refusals before the minutes of a build."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from dabnet.errors import BackendUnavailable, BuildError, InputError, MissingPackage
from dabnet.runtime.trt.product import find_product
from export.engine.engine import build_engine
from export.engine.limits import refuse_early
from export.engine.spec import BuildSpec
from tests.support.contract_graph import write_contract
from tests.support.engine_builds import PLACES, build, install, nothing_was_written, scenario_of
from tests.support.tensorrt_double import VERSIONS, Scenario


@pytest.mark.parametrize("version", ["10.0.1", "10.16.1", "11.4.0", "rtx-1.7.1"])
def test_pascal_is_told_its_stack(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install(monkeypatch, version, Scenario())
    with pytest.raises(BuildError, match=r"-c constraints/pascal.txt '.\[pascal\]'"):
        refuse_early(BuildSpec("fp32"), find_product(), (6, 1))
    refuse_early(BuildSpec("fp32"), find_product(), (7, 5))


def test_tensorrt_8_serves_pascal_but_emits_no_uint8(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "8.6.1", Scenario())
    refuse_early(BuildSpec("int8"), find_product(), (6, 1), "int32")
    for mask in ("uint8", "int64"):
        with pytest.raises(BuildError, match=f"cannot emit {mask}.*--mask-dtype int32"):
            refuse_early(BuildSpec("int8"), find_product(), (6, 1), mask)


def test_fp16_on_a_1080_ti_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "8.6.1", Scenario())
    with pytest.raises(BuildError, match="1/64 of FP32; expected fp32 or int8"):
        refuse_early(BuildSpec("fp16"), find_product(), (6, 1))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_card_without_fast_arithmetic(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, precision: str
) -> None:
    """TensorRT 8 and 10 say what the card is good at; later ones serve no such card."""
    scenario = scenario_of(precision, fast=False)
    if version in ("11.4.0", "rtx-1.7.1"):
        build(monkeypatch, tmp_path, version, BuildSpec(precision), scenario)
        return
    with pytest.raises(
        BuildError, match=f"{precision} on a GPU that lacks.*platform_has_fast_{precision}"
    ):
        build(monkeypatch, tmp_path, version, BuildSpec(precision), scenario, (7, 0))
    assert nothing_was_written(tmp_path)


@pytest.mark.parametrize("version", ["8.6.1", "10.16.1", "11.4.0"])
def test_ampere_engines_are_built_on_ampere(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install(monkeypatch, version, Scenario())
    spec = BuildSpec("fp32", hardware_compatible="ampere-plus")
    refuse_early(spec, find_product(), (8, 0))
    with pytest.raises(BuildError, match=r"ampere-plus on compute capability 7\.5"):
        refuse_early(spec, find_product(), (7, 5))


@pytest.mark.parametrize("version", ["11.4.0", "rtx-1.7.1"])
def test_a_calibrator_where_there_is_none(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install(monkeypatch, version, Scenario())
    with pytest.raises(BuildError, match="Q/DQ; export it with: dabnet-export onnx --precision"):
        refuse_early(BuildSpec("int8", calibrator="entropy"), find_product(), (8, 6))


LEAN = {"8.6.1": "libnvinfer_lean.so.8", "10.16.1": "libnvinfer_lean.so.10"}


@pytest.mark.parametrize("version", LEAN)
@pytest.mark.parametrize("place", ["linker", "tensorrt_lean_libs", "tensorrt_libs"])
def test_a_version_compatible_engine_packs_the_lean_runtime(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, place: str
) -> None:
    """It is loaded by name, or from the folder of a wheel, where the linker does not look."""
    install(monkeypatch, version, Scenario())
    (tmp_path / place).mkdir()
    (tmp_path / place / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    there = LEAN[version] if place == "linker" else str(tmp_path / place / LEAN[version])
    loaded: list[str] = []

    def load(name: str) -> None:
        if name != there:
            raise OSError(f"{name}: cannot open shared object file")
        loaded.append(name)

    monkeypatch.setattr("export.engine.limits.CDLL", load)
    refuse_early(BuildSpec("int8"), find_product(), (8, 6))
    assert loaded == []
    refuse_early(BuildSpec("int8", version_compatible=True), find_product(), (8, 6))
    assert loaded == [there]


@pytest.mark.parametrize(
    ("installed", "wheel"),
    [
        ("tensorrt-cu12", "tensorrt-lean-cu12==11.4.0"),
        ("tensorrt-cu13", "tensorrt-lean-cu13==11.4.0"),
        ("", "tensorrt-lean==11.4.0"),
    ],
)
def test_the_wheel_of_the_lean_runtime_is_named(
    monkeypatch: pytest.MonkeyPatch, installed: str, wheel: str
) -> None:
    install(monkeypatch, "11.4.0", Scenario())

    def load(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    def distribution(name: str) -> object:
        if name != installed:
            raise metadata.PackageNotFoundError(name)
        return object()

    monkeypatch.setattr("export.engine.limits.CDLL", load)
    monkeypatch.setattr(metadata, "distribution", distribution)
    spec = BuildSpec("fp32", version_compatible=True)
    named = rf"without libnvinfer_lean.so.11, .*pip install {wheel}, or .* libnvinfer-lean11$"
    with pytest.raises(BuildError, match=named) as caught:
        refuse_early(spec, find_product(), (8, 6))
    assert "\n" not in str(caught.value)
    refuse_early(spec, find_product())  # the line of trtexec is for another machine, perhaps


def test_a_target_needs_rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "10.16.1", Scenario())
    with pytest.raises(BuildError, match="cannot build for sm86; expected TensorRT-RTX"):
        refuse_early(BuildSpec("fp32", "sm86"), find_product())
    with pytest.raises(MissingPackage, match=r"'tensorrt_rtx' is not installed.*\[rtx\]"):
        build_engine(write_contract(tmp_path), tmp_path / "m.engine", BuildSpec("fp32", "sm86"))


def test_rtx_names_the_targets_it_has() -> None:
    pytest.importorskip("tensorrt_rtx")
    for target, unknown in (("sm61", "sm61"), ("sm86,sm999", "sm999")):
        with pytest.raises(BuildError, match=f"no target {unknown}; expected one of .*sm75, sm80"):
            refuse_early(BuildSpec("fp32", target), find_product("tensorrt_rtx"))


def test_missing_products_name_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackage, match=r"\[gpu\].*\[rtx\].*\[pascal\]"):
        find_product()
    with pytest.raises(MissingPackage, match=r"'tensorrt' is not installed.*\[gpu\]"):
        find_product("tensorrt")
    with pytest.raises(InputError, match="'openvino'; expected one of tensorrt, tensorrt_rtx"):
        find_product("openvino")


def test_no_gpu_is_said_before_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "10.16.1", Scenario())

    def none(index: int) -> None:
        raise BackendUnavailable("no NVIDIA GPU")

    monkeypatch.setattr(f"{PLACES[0]}.open_device_memory", none)
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU"):
        build_engine(write_contract(tmp_path), tmp_path / "m.engine", BuildSpec("fp32"))
