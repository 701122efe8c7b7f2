"""Answers of the builder and the inspector, and what is made of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from dabnet.errors import BuildError
from export.engine.spec import BuildSpec
from tests.support.engine_builds import build, nothing_was_written
from tests.support.tensorrt_double import Scenario, inspector_json


def test_parser_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scenario = Scenario(parser_errors=("Invalid Node - conv_7\nno importer", "second"))
    with pytest.raises(BuildError, match="cannot parse.*Invalid Node - conv_7 no importer"):
        build(monkeypatch, tmp_path, "10.16.1", BuildSpec("fp32"), scenario)
    assert nothing_was_written(tmp_path)


def test_builder_returns_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = (("WARNING", "hm"), ("ERROR", "out of memory"), ("ERROR", "x"))
    spec = BuildSpec("fp32", timing_cache=tmp_path / "timings")
    with pytest.raises(BuildError, match=r"11.4.0 built no engine: out of memory$"):
        build(monkeypatch, tmp_path, "11.4.0", spec, Scenario(plan=None, log=log))
    assert nothing_was_written(tmp_path)  # nor is the timing cache


@pytest.mark.parametrize(
    ("precision", "kinds", "reason"),
    [
        ("int8", ["FP32", "FP16"], "no layer computes in Int8"),
        ("fp16", ["FP32"], "no layer computes in Half"),
        ("fp32", ["FP32", "FP16"], "some layers compute in Half"),
        ("int8", [], "did not report"),
    ],
)
@pytest.mark.parametrize("version", ["10.0.1", "rtx-1.7.1"])
def test_another_precision_than_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    version: str,
    precision: str,
    kinds: list[str],
    reason: str,
) -> None:
    scenario = Scenario(inspector=inspector_json(*kinds))
    with pytest.raises(BuildError, match=reason):
        build(monkeypatch, tmp_path, version, BuildSpec(precision), scenario)
    assert nothing_was_written(tmp_path)


@pytest.mark.parametrize("text", ['{"Layers": ["conv 1", "conv 2"]}', "no JSON", "{}"])
def test_inspector_without_details_is_no_proof(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    with pytest.raises(BuildError, match="did not report"):
        build(monkeypatch, tmp_path, "10.16.1", BuildSpec("fp32"), Scenario(inspector=text))


def test_engine_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be loaded: Serialization assertion"):
        build(monkeypatch, tmp_path, "10.16.1", BuildSpec("fp32"), Scenario(loads=False))
    assert nothing_was_written(tmp_path)
