"""``open_artifact``: which file goes to which backend, and what an application needs for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dabnet.artifact import CHECKPOINT, ENGINE, ONNX, Artifact, open_artifact
from dabnet.errors import ArtifactError, InputError
from dabnet.files import sha256_of_file
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from dabnet.runtime.trt import runner as tensorrt_runner
from dabnet.runtime.trt.runner import TensorRTRunner
from tests.support.contract_graph import HEIGHT, WIDTH, contract_model, write_contract
from tests.support.engine_files import images, info_of, install, scenario_for, write_engine
from tests.support.processes import run_python
from tests.support.tensorrt_double import FakeDeviceMemory

BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "matplotlib", "click", "rich", "PIL"):
            raise ImportError(name + " is not there")

sys.meta_path.insert(0, Blocker())
"""


def python(program: str, *arguments: Path) -> str:
    done = run_python(BLOCK + program, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_three_lines_without_torch(tmp_path: Path) -> None:
    path, given, masks = write_contract(tmp_path), tmp_path / "in.npy", tmp_path / "out.npy"
    np.save(given, images(1))
    program = """
import numpy
from dabnet.artifact import open_artifact
runner = open_artifact(sys.argv[1], threads=1)
numpy.save(sys.argv[3], runner.infer(numpy.load(sys.argv[2])))
print(runner.manifest.classes[0], *runner.info.shape)
"""
    assert python(program, path, given, masks).split() == ["class", "0", "1", "32", "64", "3"]
    assert np.array_equal(np.load(masks), OnnxRuntimeRunner(path, threads=1).infer(images(1)))


def test_the_package_loads_nothing_heavy() -> None:
    program = "import dabnet.artifact\nprint(*sorted(sys.modules))"
    loaded = {name.partition(".")[0] for name in python(program).split()}
    assert not loaded & {"numpy", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda", "pycuda"}


def test_an_engine_goes_to_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory, opened = FakeDeviceMemory(), []

    def open_memory(index: int) -> FakeDeviceMemory:
        opened.append(index)
        return memory

    monkeypatch.setattr(tensorrt_runner, "open_device_memory", open_memory)
    double = scenario_for(memory)
    install(monkeypatch, "rtx-1.7.1", double)
    path = write_engine(tmp_path, info_of("rtx-1.7.1"))
    renamed = path.rename(tmp_path / "model.bin")  # known by the manifest beside it
    path.with_name("model.engine.json").rename(tmp_path / "model.bin.json")
    cache = tmp_path / "kernels"
    runner = open_artifact(str(renamed), "cuda:1", cuda_graph=True, runtime_cache=cache)
    assert isinstance(runner, TensorRTRunner)
    assert opened == [1]
    assert double.called("cuda_graph_strategy") == ["WHOLE_GRAPH_CAPTURE"]
    assert np.array_equal(runner.infer(images(2)), images(2)[..., 0] % 5)
    runner.close()
    assert cache.is_file()
    for options, message in (
        ({"device": "cpu"}, "device 'cpu' for the engine.*expected cuda"),
        ({"device": "gpu"}, "device 'gpu'; expected cpu, cuda or cuda:N"),
        ({"threads": 2}, "threads for .*; expected cuda_graph, runtime_cache"),
        ({"allow_cpu_nodes": True}, "allow_cpu_nodes for .*; expected cuda_graph"),
    ):
        with pytest.raises(InputError, match=message):
            open_artifact(renamed, **options)  # type: ignore[arg-type]


def test_options_of_an_onnx_file(tmp_path: Path) -> None:
    path = write_contract(tmp_path)
    runner = open_artifact(path, threads=1)
    assert isinstance(runner, OnnxRuntimeRunner)
    assert runner.info.device.startswith("cpu (1 threads")
    assert runner.infer(images(0)).shape == (1, HEIGHT, WIDTH)
    with pytest.raises(InputError, match="runtime_cache for .*; expected threads, cuda_graph"):
        open_artifact(path, runtime_cache=tmp_path / "c")
    with pytest.raises(InputError, match="CUDA graph on the CPU"):
        open_artifact(path, cuda_graph=True)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("m.pth", InputError, "neither an ONNX file nor .*dabnet-export onnx .*m.pth"),
        ("m.pt", InputError, "export a checkpoint with"),
        ("m.jpg", InputError, "neither an ONNX file nor an engine with its manifest; expected"),
        ("m.engine", ArtifactError, "no manifest at .*m.engine.json"),
        ("m.onnx", ArtifactError, "cannot be read as ONNX"),
    ],
)
def test_other_files(tmp_path: Path, name: str, kind: Any, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"not what it should be")
    with pytest.raises(kind, match=message) as caught:
        open_artifact(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file at .*expected a checkpoint, an ONNX file or"):
        open_artifact(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="is a directory"):
        open_artifact(tmp_path)


# --- what a file is ---------------------------------------------------------------------------


def test_the_kind_is_known_by_name_and_by_what_lies_beside(tmp_path: Path) -> None:
    for name in ("m.onnx", "M.ONNX", "m.engine", "m.plan", "m.trt", "m.pth", "m.bin", "beside.bin"):
        (tmp_path / name).write_bytes(b"anything")
    (tmp_path / "beside.bin.json").write_text("{}")
    engines = {"m.engine", "m.plan", "m.trt", "beside.bin"}
    kinds = {path.name: Artifact.open(path).kind for path in tmp_path.iterdir()}
    assert {name for name, kind in kinds.items() if kind == ENGINE} == engines
    assert {name for name, kind in kinds.items() if kind == ONNX} == {"m.onnx", "M.ONNX"}
    assert kinds["m.pth"] == kinds["m.bin"] == CHECKPOINT


def test_what_an_artifact_says_of_itself(tmp_path: Path) -> None:
    onnx_file = Artifact.open(write_contract(tmp_path))
    assert onnx_file.manifest == OnnxRuntimeRunner(onnx_file.path).manifest
    assert onnx_file.size == (HEIGHT, WIDTH)
    engine = Artifact.open(write_engine(tmp_path, info_of("10.16.1")))
    info = replace(info_of("10.16.1"), sha256=sha256_of_file(engine.path))
    assert engine.manifest is not None and engine.manifest.engine == info
    (tmp_path / "m.pth").write_bytes(b"anything")
    checkpoint = Artifact.open(tmp_path / "m.pth")
    assert checkpoint.manifest is None and checkpoint.size is None


def test_an_onnx_file_that_says_nothing(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not what it should be")
    with pytest.raises(ArtifactError, match="damaged.onnx' cannot be read as ONNX"):
        Artifact.open(damaged).manifest  # noqa: B018
    onnx.save(contract_model(), str(tmp_path / "bare.onnx"))
    with pytest.raises(ArtifactError, match="bare.onnx' carries no manifest"):
        Artifact.open(tmp_path / "bare.onnx").manifest  # noqa: B018
