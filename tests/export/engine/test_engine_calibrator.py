"""INT8 through a calibrator: the images it reads, its cache, the errors it must not lose."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from dabnet.data.images import SizedImage, SizedImages, calibration_source
from dabnet.errors import ArtifactError, InputError
from dabnet.runtime.manifest import CalibrationInfo, Manifest
from export.engine.engine import build_engine
from export.engine.spec import BuildSpec
from tests.support.contract_graph import add_manifest, contract_manifest, write_contract
from tests.support.engine_builds import (
    build,
    install,
    mask_of,
    nothing_was_written,
    scenario_of,
    write_dynamic,
)

CALIBRATED = ("8.6.1", "10.0.1", "10.16.1")


def street(count: int) -> Callable[[tuple[int, int]], SizedImages]:
    return lambda size: calibration_source("toy-street", None, count, size)


def hashed(images: SizedImages) -> tuple[str, ...]:
    return tuple(image.sha256 for image in images)


@pytest.mark.parametrize("method", ["entropy", "minmax"])
@pytest.mark.parametrize("version", CALIBRATED)
def test_the_builder_reads_the_training_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, method: str
) -> None:
    scenario = scenario_of("int8")
    cache = tmp_path / "ranges"
    spec = BuildSpec("int8", calibrator=method, calibration_cache=cache)
    manifest = build(monkeypatch, tmp_path, version, spec, scenario, images=street(3))
    images = street(3)((32, 64))
    assert len(scenario.batches) == 3
    for batch, item in zip(scenario.batches, images, strict=True):
        assert batch.dtype == np.float32
        np.testing.assert_array_equal(batch, item.image[None])
    assert scenario.called("create_network") == [{"EXPLICIT_BATCH"}]
    assert scenario.called("set_flag") == ["INT8"]
    info = CalibrationInfo(f"tensorrt-{method}", "noise", "train", 3, hashed(images))
    assert manifest.calibration == info
    assert (manifest.precision, manifest.agreement) == ("int8", None)
    kind = "EntropyCalibration2" if method == "entropy" else "MinMaxCalibration"
    assert cache.read_bytes() == f"TRT-{version}-{kind}\nimage: 00000003\n".encode()

    # Another build takes the ranges from the cache: no images, and the same origin.
    scenario.batches.clear()
    again = build(monkeypatch, tmp_path, version, spec, scenario)
    assert scenario.batches == []
    assert again.calibration == info


def test_batches_of_a_dynamic_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They have the best shape of the profile; images that fill no batch are not counted."""
    scenario = scenario_of("int8")
    opened = install(monkeypatch, "10.16.1", scenario)
    source = write_dynamic(tmp_path)
    shape = (2, 48, 80)
    spec = BuildSpec("int8", calibrator="entropy", opt_shape=shape)
    manifest = build_engine(source, tmp_path / "m.engine", spec, images=street(5))
    assert [batch.shape for batch in scenario.batches] == [(*shape, 3)] * 2
    assert manifest.calibration is not None
    assert manifest.calibration.images == 4
    assert scenario.called("set_calibration_profile")[0][1] == (*shape, 3)
    assert [memory.opened for memory in opened] == [0, 0]
    with pytest.raises(InputError, match="1 images of toy-street train for batches of 2"):
        build_engine(source, tmp_path / "m.engine", spec, images=street(1))


class Failing(SizedImages):
    """Images of which the second cannot be read."""

    def __iter__(self) -> Iterator[SizedImage]:
        yield self[0]
        raise InputError("'0002.png' cannot be read")


@pytest.mark.parametrize("version", CALIBRATED)
def test_an_error_in_a_callback_is_raised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    """The bindings drop it, and would build with the ranges of the images before it."""
    scenario = scenario_of("int8")
    good = street(3)((32, 64))
    broken = Failing.first(good.dataset, (32, 64), 3)
    spec = BuildSpec("int8", calibrator="entropy", calibration_cache=tmp_path / "ranges")
    with pytest.raises(InputError, match=r"'0002.png' cannot be read"):
        build(monkeypatch, tmp_path, version, spec, scenario, images=lambda size: broken)
    assert len(scenario.batches) == 1
    assert nothing_was_written(tmp_path)


def test_ctrl_c_during_calibration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scenario = scenario_of("int8")
    good = street(3)((32, 64))

    class Interrupted(SizedImages):
        def __iter__(self) -> Iterator[SizedImage]:
            raise KeyboardInterrupt

    spec = BuildSpec("int8", calibrator="entropy")
    broken = Interrupted.first(good.dataset, (32, 64), 3)
    with pytest.raises(KeyboardInterrupt):
        build(monkeypatch, tmp_path, "8.6.1", spec, scenario, images=lambda size: broken)
    assert nothing_was_written(tmp_path)


# --- the cache --------------------------------------------------------------------------------


def built_with_cache(
    monkeypatch: pytest.MonkeyPatch, folder: Path, images: bool, method: str = "entropy"
) -> Manifest:
    spec = BuildSpec("int8", calibrator=method, calibration_cache=folder / "ranges")
    source = street(2) if images else None
    return build(monkeypatch, folder, "8.6.1", spec, scenario_of("int8"), images=source)


def test_a_cache_without_its_origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another tool of TensorRT wrote it: it serves, and the manifest says what is not known."""
    (tmp_path / "ranges").write_bytes(b"TRT-8.6.1-EntropyCalibration2\nimage: 3c\n")
    manifest = built_with_cache(monkeypatch, tmp_path, images=False)
    unknown = CalibrationInfo("tensorrt-entropy", "noise", "unknown", 0)
    assert manifest.calibration == unknown
    assert (tmp_path / "ranges").read_bytes().endswith(b"image: 3c\n")


@pytest.mark.parametrize("content", [b"TRT-8.5.0-EntropyCalibration2\n", b"TRT-8601-damaged"])
def test_a_cache_that_tensorrt_does_not_take(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "ranges").write_bytes(content)
    with pytest.raises(InputError, match="TensorRT did not take the calibration cache.*--data-dir"):
        built_with_cache(monkeypatch, tmp_path, images=False)
    assert (tmp_path / "ranges").read_bytes() == content
    manifest = built_with_cache(monkeypatch, tmp_path, images=True)  # and with images it is new
    assert manifest.calibration is not None
    assert manifest.calibration.images == 2
    assert (tmp_path / "ranges").read_bytes().startswith(b"TRT-8.6.1-Entropy")


def test_a_cache_of_another_graph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built_with_cache(monkeypatch, tmp_path, images=True)
    beside = tmp_path / "ranges.json"
    origin = json.loads(beside.read_text(encoding="utf-8"))
    beside.write_text(json.dumps({**origin, "graph_sha256": 64 * "0"}), encoding="utf-8")
    with pytest.raises(InputError, match="ranges' was made for another ONNX graph.*delete it"):
        built_with_cache(monkeypatch, tmp_path, images=True)
    beside.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"ranges.json' exists and is not the origin of a cal"):
        built_with_cache(monkeypatch, tmp_path, images=True)


def test_a_calibrator_takes_the_portable_graph(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ranges belong to tensors, which the passes of another target replace."""
    install(monkeypatch, "10.16.1", scenario_of("int8"))
    source = write_contract(tmp_path)
    model = onnx.load(source)
    manifest = replace(contract_manifest(), optimized_for="tensorrt")
    add_manifest(model, manifest)
    onnx.save(model, source)
    with pytest.raises(ArtifactError, match="is optimised for tensorrt; expected the portable"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("int8", calibrator="minmax"))
    assert nothing_was_written(tmp_path)


@pytest.mark.parametrize("version", CALIBRATED)
def test_no_images_and_no_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    scenario = scenario_of("int8")
    install(monkeypatch, version, scenario)
    source = write_contract(tmp_path, "fp32", mask_of(version))
    with pytest.raises(InputError, match="no images to calibrate on; expected.*--data-dir"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("int8", calibrator="minmax"))
    assert nothing_was_written(tmp_path)
