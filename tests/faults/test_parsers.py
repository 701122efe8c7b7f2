"""Readers of text and bytes from other people: any content is read, or refused in one line."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from calibration.calibration_file import load_calibration
from dabnet.artifact import Artifact
from dabnet.checkpoint import load_checkpoint
from dabnet.console import Dilations, Factors, Size
from dabnet.data.image_files import read_image
from dabnet.data.label_files import LabelCoding, read_label
from dabnet.data.labels import LabelSet, read_class_file
from dabnet.data.lists import read_pairs
from dabnet.errors import DabnetError, printable, shortened
from dabnet.file_kind import kind_of
from dabnet.records import Codec
from tests.faults.verdict import CONTROL

FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LABELS = LabelSet(("a", "b"), ((0, 0, 0), (255, 255, 255)), 255)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda items: st.lists(items, max_size=4) | st.dictionaries(st.text(), items, max_size=4),
    max_leaves=20,
)
almost_text = st.binary(max_size=400) | st.text(max_size=200).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)
image_bytes = st.builds(
    lambda form, at, value, end: _damaged(form, at, value, end),
    st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM"]),
    st.integers(0, 10_000),
    st.integers(0, 255),
    st.floats(0.1, 1),
)


def _damaged(form: str, at: int, value: int, end: float) -> bytes:
    pixels = np.arange(16 * 12 * 3, dtype=np.uint8).reshape(16, 12, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    data = bytearray(buffer.getvalue())
    data[at % len(data)] = value
    return bytes(data[: int(end * len(data))])


def refused_in_one_line(read: Callable[[], Any]) -> Any:
    """What ``read`` returns; None where it refuses, which must be one clean line."""
    try:
        return read()
    except DabnetError as error:
        text = str(error)
        assert text
        assert "\n" not in text
        assert not CONTROL.search(text)
        assert len(text) <= 1000
        return None


@FOLDER
@given(content=almost_text)
@pytest.mark.parametrize("suffix", ["txt", "yaml"])
def test_files_of_classes(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"classes.{suffix}"
    path.write_bytes(content)
    found = refused_in_one_line(lambda: read_class_file(path))
    if found:
        assert 2 <= len(found.labels.classes) == len(set(found.labels.classes)) <= 255
        assert len(found.labels.palette) == len(found.labels.classes) == len(found.values)


@FOLDER
@given(value=json_values)
def test_files_of_classes_of_any_values(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    for content in (value, {"names": value}, {"names": ["a", "b"], "ignore": value}):
        path.write_text(json.dumps(content))  # JSON is YAML
        refused_in_one_line(lambda: read_class_file(path))


@FOLDER
@given(content=almost_text)
def test_lists(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    faults: list[DabnetError] = []
    refused_in_one_line(lambda: read_pairs(path, tmp_path, faults.append))


@FOLDER
@given(content=image_bytes | st.binary(max_size=100))
def test_images_and_masks(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    image = refused_in_one_line(lambda: read_image(path))
    assert image is None or (image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3)
    mask = refused_in_one_line(lambda: read_label(path, LabelCoding.of(LABELS)))
    assert mask is None or set(np.unique(mask)) <= {0, 1, 255}


@FOLDER
@given(content=almost_text | json_values.map(lambda value: json.dumps(value).encode()))
@pytest.mark.parametrize(
    "read",
    [
        load_calibration,
        lambda path: load_checkpoint(path),
        lambda path: Artifact.open(path).manifest,
        kind_of,
    ],
    ids=["calibration", "checkpoint", "artifact", "kind"],
)
def test_any_bytes(read: Callable[[Path], Any], content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    refused_in_one_line(lambda: read(path))


@FOLDER
@given(content=json_values)
def test_checkpoints_of_any_values(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for value in (content, {"format": 1, "model": content}, {"model": {"a": content}}):
        torch.save(value, path)
        refused_in_one_line(lambda: load_checkpoint(path))


@dataclasses.dataclass(frozen=True)
class Inner:
    name: str
    sides: tuple[int, int]
    share: float | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    version: int
    inner: Inner
    more: tuple[Inner, ...] = ()
    by_name: dict[str, int] = dataclasses.field(default_factory=dict)


CODEC = Codec(Outer, "thing", "a test", "write it again", version=("version", 1))
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
int64 = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
inner = st.builds(Inner, words, st.tuples(int64, int64), st.none() | finite)


@given(
    st.builds(
        Outer,
        st.just(1),
        inner,
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(words, int64, max_size=3),
    )
)
def test_what_the_codec_writes_it_reads(value: Outer) -> None:
    assert CODEC.parse(CODEC.dump(value), "it") == value


@given(json_values | st.fixed_dictionaries({"version": st.just(1), "inner": json_values}))
def test_the_codec_takes_no_other_values(value: Any) -> None:
    found = refused_in_one_line(lambda: CODEC.parse(json.dumps(value), "it"))
    if found:
        assert json.loads(CODEC.dump(found)).items() >= value.items()


@given(st.text(max_size=50))
@pytest.mark.parametrize("kind", [Size(), Factors(), Dilations()])
def test_values_of_options(kind: click.ParamType, text: str) -> None:
    try:
        found = kind.convert(text, None, None)
    except click.UsageError as error:
        assert error.format_message()
    else:
        assert all(np.isfinite(found))


@given(st.text())
def test_messages_are_printable(text: str) -> None:
    assert not CONTROL.search(printable(text))
    printable(text).encode("utf-8")
    assert len(shortened(text, 50)) <= 50
