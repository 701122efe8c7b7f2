"""The timing cache: read, grown, kept away from builds that it does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dabnet.errors import BuildError, InputError
from dabnet.runtime.manifest import Manifest
from export.engine.spec import BuildSpec
from tests.support.engine_builds import build, scenario_of
from tests.support.tensorrt_double import PLAN, VERSIONS

KEEPING = [version for version in VERSIONS if not version.startswith("rtx")]
EMPTY = "is no timing cache of this version and GPU: starts an empty one"


def build_with(
    monkeypatch: pytest.MonkeyPatch, folder: Path, version: str, said: list[str]
) -> Manifest:
    spec = BuildSpec("fp32", timing_cache=folder / "timings")
    return build(monkeypatch, folder, version, spec, scenario_of("fp32"), progress=said.append)


@pytest.mark.parametrize("version", KEEPING)
def test_timings_grow_from_build_to_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    said: list[str] = []
    for builds in (1, 2):
        build_with(monkeypatch, tmp_path, version, said)
        content = (tmp_path / "timings").read_text()
        assert content == f"\0timings of {version}" + builds * " +build"
    assert not any(EMPTY in text for text in said)


@pytest.mark.parametrize(
    "stored", [b"\0damaged", b"\0timings of 9.9.9 +build", b"\0timings of {} another GPU"]
)
@pytest.mark.parametrize("version", KEEPING)
def test_a_cache_that_does_not_fit_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, stored: bytes
) -> None:
    said: list[str] = []
    path = tmp_path / "timings"
    path.write_bytes(stored.replace(b"{}", version.encode()))
    build_with(monkeypatch, tmp_path, version, said)
    assert f"timings {EMPTY}" in said
    assert path.read_text() == f"\0timings of {version} +build"


def test_its_complaints_are_not_those_of_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "timings").write_bytes(b"\0damaged")
    spec = BuildSpec("fp32", timing_cache=tmp_path / "timings")
    scenario = scenario_of("fp32", plan=None, log=(("ERROR", "out of memory"),))
    with pytest.raises(BuildError, match="built no engine: out of memory"):
        build(monkeypatch, tmp_path, "10.16.1", spec, scenario)
    assert (tmp_path / "timings").read_bytes() == b"\0damaged"


def test_a_disk_that_is_full_leaves_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "timings").write_bytes(b"\0timings of 10.16.1")
    (tmp_path / "model.engine").write_bytes(b"ftrt old engine")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="timings' could not be written .No space left"):
        build_with(monkeypatch, tmp_path, "10.16.1", [])
    assert (tmp_path / "timings").read_bytes() == b"\0timings of 10.16.1"
    assert (tmp_path / "model.engine").read_bytes() == b"ftrt old engine" != PLAN
