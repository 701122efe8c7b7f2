"""The manifest as text: what is written is read back, and nothing else is taken for one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dabnet.errors import ArtifactError, DabnetError
from dabnet.preprocessing import Preprocessing
from dabnet.runtime.manifest import (
    MANIFEST,
    Agreement,
    CalibrationInfo,
    ConfidenceDifference,
    EngineInfo,
    Manifest,
    TensorInfo,
    engine_manifest_path,
    read_engine_manifest,
)
from tests.support.contract_graph import contract_manifest

FULL = dataclasses.replace(
    contract_manifest("int8", confidence=True),
    classes=("sky", "Straße", 'a "quoted" name'),
    palette=((1, 2, 3), (4, 5, 6), (7, 8, 9)),
    onnx_sha256="1" * 64,
    agreement=Agreement(
        "8 images of toy-street val",
        0.9712890625,
        1 / 3,
        confidence=ConfidenceDifference(9, 3, 0.9),
    ),
    engine=EngineInfo("tensorrt", "10.16.1.11", "this-gpu", "GPU", "8.6", "580", {"Int8": 3}),
)

shares = st.floats(0, 1)
triples = st.tuples(*[st.floats(-300, 300, allow_nan=False)] * 3)
tensors = st.builds(
    TensorInfo,
    st.text(),
    st.sampled_from(["uint8", "int32"]),
    st.tuples(*[st.integers(1, 9999)] * 4),
)
manifests = st.builds(
    Manifest,
    model=st.text(),
    dataset=st.text(),
    classes=st.lists(st.text(), max_size=4).map(tuple),
    palette=st.lists(st.tuples(*[st.integers(0, 255)] * 3), max_size=4).map(tuple),
    ignore=st.integers(0, 255),
    preprocessing=st.builds(Preprocessing, triples, triples),
    input=tensors,
    output=tensors,
    confidence=st.none() | tensors,
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    checkpoint_sha256=st.text(),
    example=st.tuples(*[st.integers(1, 9999)] * 3),
    opset=st.integers(0, 30),
    calibration=st.none()
    | st.builds(
        CalibrationInfo,
        st.text(),
        st.text(),
        st.text(),
        st.integers(0, 9999),
        st.lists(st.text(), max_size=2).map(tuple),
        st.text(),
        st.lists(st.text(), max_size=2).map(tuple),
    ),
    agreement=st.none() | st.builds(Agreement, st.text(), shares, shares),
    engine=st.none()
    | st.builds(
        EngineInfo,
        st.text(),
        st.text(),
        st.text(),
        layers_by_type=st.dictionaries(st.text(), st.integers(0, 99), max_size=3),
    ),
    libraries=st.dictionaries(st.text(), st.text(), max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(manifests)
def test_round_trip(manifest: Manifest) -> None:
    read = MANIFEST.parse(manifest.to_json(), "test")  # whatever is right of the parts together
    assert read == manifest
    hash(read.classes), hash(read.palette), hash(read.input)  # tuples again, not lists


def test_a_manifest_from_before_the_confidence_is_read() -> None:
    older = json.loads(contract_manifest().to_json())
    del older["confidence"]
    manifest = Manifest.from_json(json.dumps(older), "older.onnx")
    assert manifest == contract_manifest() and manifest.head == "mask"
    assert contract_manifest(confidence=True).head == "mask+confidence"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shape": [1, 32, 63]}, "confidence.shape: expected the sides of the mask"),
        ({"name": "certainty"}, "beside a mask perhaps its confidence"),
        ({"dtype": "float32"}, "beside a mask perhaps its confidence"),
    ],
)
def test_a_confidence_that_no_runner_serves(change: dict[str, Any], told: str) -> None:
    values = json.loads(contract_manifest(confidence=True).to_json())
    values["confidence"] |= change
    with pytest.raises(ArtifactError, match=told):
        Manifest.from_json(json.dumps(values), "m.onnx")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=256).filter(any))
def test_figures_of_a_difference_are_those_of_its_pixels(pixels: list[int]) -> None:
    apart = np.repeat(np.arange(len(pixels)), pixels)
    found = ConfidenceDifference.of(pixels)
    assert found.largest == apart.max()
    assert (apart <= found.percentile_999).mean() >= 0.999
    assert (apart <= found.percentile_999 - 1).mean() < 0.999
    assert found.within_2 == pytest.approx((apart <= 2).mean())


def test_every_field_is_in_the_text() -> None:
    written = json.loads(FULL.to_json())
    assert written == json.loads(json.dumps(dataclasses.asdict(FULL)))
    assert set(written) == {field.name for field in dataclasses.fields(Manifest)}
    assert "Straße" in FULL.to_json()  # a person reads it beside the engine


def test_a_future_format_asks_for_another_export() -> None:
    text = json.dumps(json.loads(FULL.to_json()) | {"format": 5, "tomorrow": "unknown"})
    with pytest.raises(
        ArtifactError, match="m.onnx holds a manifest of format 5; expected format 4"
    ):
        Manifest.from_json(text, "m.onnx")


def damaged() -> list[Any]:
    whole = json.loads(FULL.to_json())
    texts = {
        "nothing": "",
        "half": FULL.to_json()[:300],
        "no object": "[1, 2]",
        "a number": "7",
        "no format": json.dumps({k: v for k, v in whole.items() if k != "format"}),
        "an unknown field": json.dumps(whole | {"colour": "red"}),
        "classes are a number": json.dumps(whole | {"classes": 11}),
        "palette of numbers": json.dumps(whole | {"palette": [1, 2]}),
        "input without shape": json.dumps(whole | {"input": {"name": "image", "dtype": "uint8"}}),
        "input is text": json.dumps(whole | {"input": "image"}),
        "engine is text": json.dumps(whole | {"engine": "tensorrt"}),
        "unknown agreement": json.dumps(whole | {"agreement": {"share": 1.0}}),
        "no preprocessing": json.dumps(whole | {"preprocessing": None}),
    }
    texts |= {
        f"without {name}": json.dumps({k: v for k, v in whole.items() if k != name})
        for name in ("model", "input", "checkpoint_sha256", "example")
    }
    return [pytest.param(text, id=name) for name, text in texts.items()]


@pytest.mark.parametrize("text", damaged())
def test_a_damaged_text_is_one_line(text: str) -> None:
    with pytest.raises(ArtifactError, match="^m.onnx holds no valid manifest") as caught:
        Manifest.from_json(text, "m.onnx")
    assert "\n" not in str(caught.value)
    assert "export the artifact again" in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=6), st.integers(0, 3000), st.integers(0, 40))
def test_damage_beside_an_engine_is_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, put: bytes, at: int, dropped: int
) -> None:
    """Bytes replaced in ``model.engine.json``, not always UTF-8: either it reads, or it is said."""
    engine = tmp_path_factory.getbasetemp() / "model.engine"
    whole = FULL.to_json().encode()
    engine_manifest_path(engine).write_bytes(whole[:at] + put + whole[at + dropped :])
    try:
        manifest, info = read_engine_manifest(engine)
    except DabnetError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(manifest, Manifest) and isinstance(info, EngineInfo)


def test_an_engine_without_its_manifest(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    with pytest.raises(ArtifactError, match=r"no manifest at .*model\.engine\.json.*dabnet-export"):
        read_engine_manifest(engine)
    engine_manifest_path(engine).write_text(contract_manifest().to_json(), encoding="utf-8")
    with pytest.raises(ArtifactError, match="describes no engine"):
        read_engine_manifest(engine)


def faulty() -> list[Any]:
    """Parts that do not fit each other, and values out of range."""
    good = contract_manifest()
    engine = EngineInfo("tensorrt", "10.16.1.11", "this-gpu", sha256="x" * 64)
    open_sides = {
        "input": TensorInfo("image", "uint8", (-1, 32, 64, 3)),
        "output": TensorInfo("mask", "uint8", (-1, 32, 64)),
    }
    one = (1, 32, 64, 3)

    def built(*profile: Any) -> EngineInfo:
        return dataclasses.replace(engine, sha256="", profile=profile)

    changes: dict[str, dict[str, Any]] = {
        "no classes": {"classes": (), "palette": ()},
        "a class twice": {"classes": ("a", "a", "b", "c", "d")},
        "a class with ESC": {"classes": ("\x1b[31m", "a", "b", "c", "d")},
        "a palette of 3": {"palette": ((1, 2, 3),) * 3},
        "a colour of 256": {"palette": ((256, 2, 3),) * 5},
        "scale 0": {"preprocessing": Preprocessing((1.0, 1.0, 1.0), (0.0, 1.0, 1.0))},
        "a mean of 1e30": {"preprocessing": Preprocessing((1e30, 1.0, 1.0))},
        "a hash of 63 digits": {"checkpoint_sha256": "0" * 63},
        "precision fp4": {"precision": "fp4"},
        "stride 0": {"stride": 0},
        "an example of another size": {"example": (1, 32, 32)},
        "an example of 10**6": {"example": (1, 2**20, 2**20)},
        "a mask of another size": {"output": TensorInfo("mask", "uint8", (1, 32, 32))},
        "one channel": {"input": TensorInfo("image", "uint8", (1, 32, 64, 1))},
        "logits of 3": {"output": TensorInfo("y", "float32", (1, 3, 32, 64))},
        "an engine's hash": {"engine": engine},
        "a profile of fixed sides": {"engine": built(one, one, one)},
        "no profile": {"engine": built(), **open_sides},
        "a profile out of order": {"engine": built((4, 32, 64, 3), one, one), **open_sides},
        "a profile of another size": {"engine": built(one, one, (1, 64, 64, 3)), **open_sides},
    }
    return [
        pytest.param(dataclasses.replace(good, **change), id=name)
        for name, change in changes.items()
    ]


@pytest.mark.parametrize("manifest", faulty())
def test_parts_that_do_not_fit_each_other(manifest: Manifest) -> None:
    with pytest.raises(ArtifactError, match="^m.onnx holds no valid manifest: [a-z]"):
        Manifest.from_json(manifest.to_json(), "m.onnx")


def test_an_engine_is_the_file_of_its_manifest(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"plan")
    sha256 = hashlib.sha256(b"plan").hexdigest()
    info = EngineInfo("tensorrt", "10.16.1.11", "this-gpu", sha256=sha256)
    manifest = dataclasses.replace(contract_manifest(), engine=info)
    engine_manifest_path(engine).write_text(manifest.to_json(), encoding="utf-8")
    assert read_engine_manifest(engine)[1] == info
    engine.write_bytes(b"another")
    with pytest.raises(ArtifactError, match="is not the engine that .* --trust"):
        read_engine_manifest(engine)
    assert read_engine_manifest(engine, trust=True)[1] == info
