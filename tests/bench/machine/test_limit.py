"""The limit of a row: the kernels of its graph one after the other, at the machine's peaks."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from bench.machine.limit import limit_of
from bench.record import Cache, Peaks, Setting
from dabnet.errors import InputError
from tests.support.pass_graphs import GraphOf

H, W = 8, 16
PIXELS = H * W


def test_kernels_follow_each_other_each_at_its_own_bound(tmp_path: Path) -> None:
    graph = GraphOf((1, 3, H, W))
    first = graph.conv("x", "first", (64, 3, 3, 3), pads=[1, 1, 1, 1])
    half = {"kernel_shape": [2, 2], "strides": [2, 2]}
    model = graph.model(graph.node("MaxPool", [first], "y", **half))
    onnx.save(model, tmp_path / "graph.onnx")
    peaks = Peaks("both", 4.0, {"fp32": 10.0}, "")
    found = limit_of(tmp_path / "graph.onnx", Setting((H, W)), "fp32", peaks)
    adds, pool = PIXELS * 64 * 27, 4 * 64 * PIXELS * 5 // 4
    assert found.arithmetic_s == adds / 10
    assert found.seconds == adds / 10 + pool / 4
    assert found.share is None
    assert (found.multiply_adds, found.kernels) == (adds, 2)
    assert found.traffic_bytes == 4 * (3 * PIXELS + 64 * (27 + 1) + 64 * PIXELS) + pool


def test_a_graph_that_fits_into_the_cache_is_moved_at_its_rate(tmp_path: Path) -> None:
    graph = GraphOf((1, 3, H, W))
    model = graph.model(graph.conv("x", "y", (64, 3, 3, 3), pads=[1, 1, 1, 1]))
    onnx.save(model, tmp_path / "graph.onnx")

    def traffic_s(cache: Cache | None) -> float:
        peaks = Peaks("any", 4.0, {"fp32": 1e30}, "", cache)
        found = limit_of(tmp_path / "graph.onnx", Setting((H, W)), "fp32", peaks)
        assert found.seconds == found.traffic_s
        return found.traffic_s

    assert traffic_s(Cache(2**20, 20.0)) == traffic_s(None) / 5


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    peaks = Peaks("any", 1.0, {"fp32": 1.0}, "")
    with pytest.raises(InputError, match="no file"):
        limit_of(tmp_path / "none.onnx", Setting((H, W)), "fp32", peaks)
