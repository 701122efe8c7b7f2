"""Files of torch.save are read as data: what asks for more is refused before torch reads it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dabnet.errors import ArtifactError
from dabnet.torch_file import MOST_VALUES, read_torch_file


def written(folder: Path, content: Any, legacy: bool = False) -> Path:
    path = folder / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_torch_file(path)
    return str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_trainers_write_is_read_as_torch_reads_it(tmp_path: Path, legacy: bool) -> None:
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    content = {
        "model": network.state_dict(),
        "optimizer": optimiser.state_dict(),
        "best": np.float64(0.61),
        "iou": np.array([0.25, 0.5]),
        "epoch": 3,
        "names": ("road", {"sky"}, None, True, 1j, b"bytes", 10**30),
    }
    found = read_torch_file(written(tmp_path, content, legacy))
    assert found.keys() == content.keys()
    assert found["names"] == content["names"]
    assert (found["best"], found["iou"].tolist()) == (0.61, [0.25, 0.5])
    assert torch.equal(found["model"]["weight"], network.weight)
    moment = found["optimizer"]["state"][0]["momentum_buffer"]
    assert torch.equal(moment, torch.ones(2, 3))


def test_shared_values_count_each_time(tmp_path: Path) -> None:
    """A tuple of two times the same, 25 levels deep, is small on disk."""
    value: Any = ("ha",)
    for _ in range(25):
        value = (value, value)
    path = written(tmp_path, {"metrics": value})
    assert path.stat().st_size < 10_000
    assert f"more than {MOST_VALUES} values" in refusal(path)
    # The hash of a key walks through it, before the end of the pickle.
    assert f"more than {MOST_VALUES} values" in refusal(written(tmp_path, {value: 1}))


def test_values_may_be_a_hundred_deep(tmp_path: Path) -> None:
    value: list[Any] = []
    for _ in range(90):
        value = [value]
    assert read_torch_file(written(tmp_path, {"x": value})) == {"x": value}
    for _ in range(20):
        value = [value]
    assert "100 deep" in refusal(written(tmp_path, {"x": value}))


def test_a_storage_is_no_larger_than_its_part(tmp_path: Path) -> None:
    """Torch would read beyond the part: other memory of the process."""
    path = written(tmp_path, {"weight": torch.zeros(250)})
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(stream, "w") as target:
        for part in source.infolist():
            shorter = part.filename.endswith("/data/0")
            target.writestr(part.filename, source.read(part)[: 500 if shorter else None])
    path.write_bytes(stream.getvalue())
    assert "a tensor of 1000 bytes in 500 bytes" in refusal(path)


def test_a_tensor_that_repeats_its_values_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"weight": torch.zeros(1).expand(1 << 40)})
    assert "a tensor of 1099511627776 without its elements" in refusal(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"weight": torch.zeros(1 << 20)})
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as t:
        for part in source.namelist():
            t.writestr(part, source.read(part))
    path.write_bytes(stream.getvalue())
    assert "an archive that is compressed" in refusal(path)


def test_a_changed_weight_is_told_by_its_check_sum(tmp_path: Path) -> None:
    path = written(tmp_path, {"weight": torch.ones(1000)})
    data = bytearray(path.read_bytes())
    data[data.find(b"\x00\x00\x80\x3f" * 10) + 100] ^= 1
    path.write_bytes(data)
    assert "is damaged (the check sum of" in refusal(path)
