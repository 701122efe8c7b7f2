"""What the bench's cache takes for sound: an artifact that is as it was written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from bench.backends.cache import _manifest_in_cache
from tests.faults.damage import weights
from tests.support.contract_graph import write_contract
from tests.support.engine_files import INFO, write_engine


def without_manifest(path: Path) -> None:
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGE: dict[str, Callable[[Path], object]] = {
    "weights zeroed": weights(lambda data: bytes(len(data))),
    "a weight flipped": weights(lambda data: bytes([data[0] ^ 1]) + data[1:]),
    "weights NaN": weights(lambda data: b"\x00\x00\xc0\x7f" * (len(data) // 4)),
    "without its manifest": without_manifest,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:3000]),
    "text": lambda path: path.write_bytes(b"hello"),
    "empty": lambda path: path.write_bytes(b""),
    "a directory": instead(Path.mkdir),
    "a FIFO": instead(os.mkfifo),
    "/dev/zero": instead(lambda path: path.symlink_to("/dev/zero")),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_onnx_file_is_made_anew(tmp_path: Path, name: str) -> None:
    path = write_contract(tmp_path)
    assert _manifest_in_cache(path) is not None
    DAMAGE[name](path)
    assert _manifest_in_cache(path) is None


def test_a_damaged_engine_is_built_anew(tmp_path: Path) -> None:
    path = write_engine(tmp_path, INFO)
    assert _manifest_in_cache(path) is not None
    path.write_bytes(path.read_bytes() + b"\0")
    assert _manifest_in_cache(path) is None
