"""The file: nothing of the exporting machine in it, and never half of it."""

from __future__ import annotations

import errno
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from dabnet.errors import BuildError, InputError
from dabnet.runtime.manifest import Manifest
from dabnet.runtime.onnx_check import graph_sha256_of
from export.onnx_export import export_onnx
from export.onnx_file import manifest_of, save_onnx, with_manifest
from export.spec import ExportSpec
from tests.support import ROOT
from tests.support.exported_artifacts import (
    FP32,
)
from tests.support.seeded_checkpoint import SIZE, no_bar


def strings_named(message: Any, field: str) -> list[str]:
    """All values of a string field, at any depth of a protobuf message."""
    found = []
    for descriptor, value in message.ListFields():
        if descriptor.name == field:
            found.append(value)
        elif descriptor.message_type is not None:
            repeated = hasattr(value, "__len__")
            for part in value if repeated else [value]:
                found += strings_named(part, field)
    return found


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_nothing_of_this_machine_is_in_the_file(
    artifacts: dict[str, tuple[Path, Manifest]], name: str
) -> None:
    path, _ = artifacts[name]
    content = path.read_bytes()
    repository = str(ROOT)
    for trace in (
        repository,
        tempfile.gettempdir() + "/",
        str(Path.home()) + "/",
        ".py",
        "-packages",
    ):
        assert trace.encode() not in content, trace
    model = onnx.load(path)
    assert strings_named(model, "doc_string") == []
    assert [entry.key for entry in model.metadata_props] == ["dabnet_manifest"]


def test_traces_of_any_exporter_are_dropped(
    artifacts: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    """Another release of an exporter may write source paths elsewhere in the graph."""
    path, manifest = artifacts["fp32"]
    model = onnx.load(path)
    graph = model.graph
    trace = "/home/somebody/model.py:17"
    for message in (model, graph, graph.node[3], graph.initializer[0], graph.input[0]):
        message.doc_string = trace
    for message in (model, graph, graph.node[3], graph.output[0]):
        if "metadata_props" in message.DESCRIPTOR.fields_by_name:
            message.metadata_props.add(key="stack_trace", value=trace)
    branch = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["a"], ["b"])], "branch", [], [])
    branch.node[0].doc_string = trace
    graph.node[3].attribute.append(onnx.helper.make_attribute("body", branch))
    clean = with_manifest(ir.from_proto(model), manifest)
    assert b"somebody" not in clean.SerializeToString()
    graph = graph_sha256_of(clean.SerializeToString())
    assert manifest_of(ir.from_proto(clean), "test") == replace(manifest, graph_sha256=graph)
    assert b"somebody" in model.SerializeToString()  # the argument is left as it was


OLDER = b"\x08\x08\x12\x00"  # its IR version and an empty name of a producer


def kept(folder: Path) -> Path:
    """An older artifact that no failure may touch."""
    path = folder / "m.onnx"
    path.write_bytes(OLDER)
    return path


def is_untouched(path: Path) -> bool:
    return list(path.parent.iterdir()) == [path] and path.read_bytes() == OLDER


def test_too_little_agreement_keeps_the_old_file(checkpoint: Path, tmp_path: Path) -> None:
    output = kept(tmp_path)
    spec = ExportSpec(SIZE, "int8", calibration_images=1, check_images=1, minimum_agreement=0.9999)
    with pytest.raises(BuildError, match=r"agrees with PyTorch on \d+\.\d+ %.*at least 99\.99 %"):
        export_onnx(checkpoint, output, spec, progress=no_bar)
    assert is_untouched(output)


def test_an_invalid_graph_is_not_written(
    checkpoint: Path,
    artifacts: dict[str, tuple[Path, Manifest]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = onnx.load(artifacts["fp32"][0])
    broken.graph.node[5].input[0] = "a tensor that nobody writes"
    monkeypatch.setattr("export.onnx_export.contract_graph", lambda *_: ir.from_proto(broken))
    output, spec = kept(tmp_path), replace(FP32, without_passes=("scale_image",))
    with pytest.raises(BuildError, match="not valid ONNX") as caught:
        export_onnx(checkpoint, output, spec, progress=no_bar)
    assert "\n" not in str(caught.value)
    assert is_untouched(output)


@pytest.mark.parametrize(
    ("failure", "seen"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), InputError),
    ],
)
def test_an_interrupted_write_leaves_nothing(
    artifacts: dict[str, tuple[Path, Manifest]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    seen: type[BaseException],
) -> None:
    """Control-C, and a full disk, in the middle of the file."""
    model = onnx.load(artifacts["fp32"][0])

    def half(model: onnx.ModelProto, path: Path, *_: Any, **__: Any) -> None:
        content = model.SerializeToString()
        Path(path).write_bytes(content[: len(content) // 2])
        raise failure

    monkeypatch.setattr(onnx, "save", half)
    output = kept(tmp_path)
    with pytest.raises(seen):
        save_onnx(model, output)
    assert is_untouched(output)
    with pytest.raises(seen):
        save_onnx(model, tmp_path / "new.onnx")
    assert is_untouched(output)
