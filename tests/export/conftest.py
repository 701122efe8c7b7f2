"""One export of each kind for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from dabnet.runtime.manifest import Manifest
from export.onnx_export import export_onnx
from tests.support.exported_artifacts import BATCH_OF_INT32, FP32, INT8
from tests.support.seeded_checkpoint import no_bar, write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def artifacts(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Manifest]]:
    """Each spec's file, alone in its folder, and the manifest that ``export_onnx`` returned."""
    made = {}
    for name, spec in (("fp32", FP32), ("int8", INT8), ("batch", BATCH_OF_INT32)):
        path = tmp_path_factory.mktemp(name) / "model.onnx"
        made[name] = (path, export_onnx(checkpoint, path, spec, progress=no_bar))
    return made
