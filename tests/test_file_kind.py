"""A file that another command takes is named, with that command; all others are not touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.record.file import write_record
from calibration.calibration_file import (
    Calibration,
    Subject,
    is_calibration,
    load_calibration,
    save_calibration,
)
from calibration.histogram import StreamingHistogram
from dabnet.artifact import Artifact, open_artifact
from dabnet.checkpoint import load_checkpoint
from dabnet.errors import DabnetError, InputError
from dabnet.file_kind import kind_of
from export.inspection import inspect_file
from tests.support.contract_graph import contract_manifest, write_contract
from tests.support.sample_reports import sample_report
from tests.support.seeded_checkpoint import write_checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind, as the commands write them, under names that say nothing."""
    folder = tmp_path_factory.mktemp("files")
    seen = StreamingHistogram()
    seen.update(np.linspace(-1, 3, 1000, dtype=np.float32))
    subject = Subject("ab" * 32, "cd" * 32, "portable", (64, 96))
    paths = {name: folder / name for name in ("engine", "record", "calibration", "unknown")}
    (folder / "engine").write_bytes(b"plan")
    paths["manifest"] = folder / "engine.json"
    paths["manifest"].write_text(contract_manifest().to_json())
    write_record(sample_report(), paths["record"])
    save_calibration(
        Calibration(subject, "camvid", "train", {"a.png": "0" * 64}, {"conv": seen}),
        paths["calibration"],
    )
    paths["unknown"].write_text('{"results": []}')
    return {"onnx": write_contract(folder), "checkpoint": write_checkpoint(folder), **paths}


WHAT = {
    "onnx": r"fp32-uint8\.onnx' is an ONNX file; expected .*dabnet-export inspect \S*\.onnx$",
    "engine": r"engine' is a TensorRT engine; expected .*dabnet-export inspect \S*engine$",
    "record": r"record' is a record of dabnet-bench; expected .*dabnet-bench report \S*record$",
    "calibration": r"calibration' is a calibration of .*; expected .*inspect \S*calibration$",
    "manifest": r"engine\.json' is the manifest of an engine; expected .*inspect \S*engine$",
}


def test_each_kind_is_told_from_the_others(files: dict[str, Path]) -> None:
    told = {name: kind_of(path) for name, path in files.items()}
    assert told == {name: name for name in WHAT} | {"checkpoint": "unknown", "unknown": "unknown"}


COMMANDS: dict[str, tuple[Callable[[Path], Any], set[str]]] = {
    "load_checkpoint": (load_checkpoint, {"checkpoint"}),
    "Artifact.open": (Artifact.open, {"checkpoint", "onnx", "engine"}),
    "open_artifact": (open_artifact, {"onnx", "engine"}),
    "load_calibration": (load_calibration, {"calibration"}),
    "inspect": (inspect_file, {"checkpoint", "onnx", "engine", "calibration"}),
}


@pytest.mark.parametrize("kind", WHAT)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_of_another_kind_is_named_with_its_command(
    files: dict[str, Path], command: str, kind: str
) -> None:
    read, takes = COMMANDS[command]
    if kind not in takes:
        with pytest.raises(InputError, match=WHAT[kind]):
            read(files[kind])


@pytest.mark.parametrize("command", COMMANDS)
def test_another_file_keeps_the_error_of_the_command(files: dict[str, Path], command: str) -> None:
    try:
        COMMANDS[command][0](files["unknown"])
    except DabnetError as error:
        assert "dabnet-export inspect" not in str(error)


def test_what_was_a_calibration_still_is(files: dict[str, Path], tmp_path: Path) -> None:
    """Damaged too: its own error says where."""
    assert {name for name, path in files.items() if is_calibration(path)} == {
        "calibration",
        "unknown",
    }
    damaged = tmp_path / "damaged.json"
    damaged.write_text(files["calibration"].read_text()[:-20])
    assert is_calibration(damaged)
    laid_out = tmp_path / "sorted.json"
    laid_out.write_text(json.dumps(json.loads(files["record"].read_text()), sort_keys=True))
    assert kind_of(laid_out) == "record"
