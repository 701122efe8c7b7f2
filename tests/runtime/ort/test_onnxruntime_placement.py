"""Where onnxruntime runs each node: its real trace, and a double that has a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dabnet.errors import BackendUnavailable, InputError
from dabnet.runtime.cuda import gpu_unavailable_reason
from dabnet.runtime.ort import gpu as onnxruntime_gpu
from dabnet.runtime.ort.placement import CPU, PlacedNode, check_placement, traced
from dabnet.runtime.ort.runner import OnnxRuntimeRunner
from tests.support.contract_graph import HEIGHT, WIDTH, write_contract
from tests.support.contract_variants import write_dynamic, write_raw, write_with_shape_nodes
from tests.support.onnxruntime_double import CUDA, CudaScenario, make_double

ort = pytest.importorskip("onnxruntime")

PIXELS = {"real", "planes", "active", "logits", "labels", "mask"}
"""Nodes of the graph that compute on pixels, and keep their names in the optimised one."""

Double = Callable[..., CudaScenario]


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    def install(**changes: Any) -> CudaScenario:
        scenario = CudaScenario(**changes)
        monkeypatch.setitem(sys.modules, "onnxruntime", make_double(scenario))
        monkeypatch.setattr(onnxruntime_gpu, "open_device_memory", scenario.open_memory)
        return scenario

    return install


def noise(seed: int, shape: tuple[int, ...] = (1, HEIGHT, WIDTH, 3)) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def placed(path: Path) -> list[PlacedNode]:
    options = ort.SessionOptions()
    with traced(options) as nodes_of:
        session = ort.InferenceSession(str(path), options, providers=[CPU])
        session.run(None, {"image": noise(0)})
        return nodes_of(session)


def test_a_real_trace_lists_every_node(tmp_path: Path, temp_folder: Path) -> None:
    nodes = placed(write_with_shape_nodes(tmp_path))
    assert not list(temp_folder.iterdir())
    assert {node.provider for node in nodes} == {CPU}
    by_name = {node.name: node for node in nodes}
    assert by_name["labels"].op == "ArgMax"
    assert by_name.keys() >= PIXELS - {"logits"}  # a Resize in blocked layout has another name
    assert not any(by_name[name].is_shape for name in PIXELS & by_name.keys())
    # onnxruntime fuses some of them; it turns a Slice of a Shape into a Gather.
    assert {node.op for node in nodes if node.is_shape} <= {"Shape", "Slice", "Gather", "Concat"}
    assert {"sizes", "sides"} <= {node.name for node in nodes if node.is_shape}
    assert not any(node.is_shape for node in placed(write_contract(tmp_path)))


def test_what_is_accepted_and_what_is_told() -> None:
    conv, pool = PlacedNode("a", "Conv", CUDA, False), PlacedNode("b", "AveragePool", CUDA, False)
    shape, resize = PlacedNode("s", "Shape", CPU, True), PlacedNode("r", "Resize", CPU, False)
    assert check_placement([conv, pool], CUDA, "'m'", False) == []
    assert check_placement([conv, shape], CUDA, "'m'", False) == ["1 shape nodes on the CPU"]
    with pytest.raises(BackendUnavailable, match=r"node 'r' \(Resize\) of 'm' .*allow_cpu_nodes"):
        check_placement([conv, resize, shape], CUDA, "'m'", False)
    with pytest.raises(BackendUnavailable, match=r"\(Resize\) and 1 more of"):
        check_placement([conv, resize, resize], CUDA, "'m'", False)
    found = check_placement([conv, resize, shape], CUDA, "'m'", True)
    assert found == ["1 of 3 nodes on the CPU", "1 shape nodes on the CPU"]
    for nodes in ([], [resize, shape]):
        with pytest.raises(BackendUnavailable, match=f"no node of 'm' ran on {CUDA}"):
            check_placement(nodes, CUDA, "'m'", True)


# --- the runner, with a GPU that is none ------------------------------------------------------


def test_cuda_gives_the_masks_of_the_cpu(double: Double, tmp_path: Path) -> None:
    path = write_contract(tmp_path)
    reference = OnnxRuntimeRunner(path, threads=1)
    scenario = double()
    runner = OnnxRuntimeRunner(path, "cuda")
    assert scenario.settings["use_tf32"] == "0"
    assert scenario.settings["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert scenario.settings["enable_cuda_graph"] == "0"
    assert runner.info.notes == (CUDA,)
    assert runner.info.device == "NVIDIA Double 3090"
    first, second = runner.infer(noise(1)), runner.infer(noise(2))
    assert first.dtype == np.uint8
    assert np.array_equal(first, reference.infer(noise(1)))  # not overwritten by the second
    assert np.array_equal(second, reference.infer(noise(2)))
    assert set(scenario.graphs) == {"none"}
    scenario.fails = "CUDA failure 2: out of memory\nsecond line"
    with pytest.raises(BackendUnavailable, match=r"onnxruntime failed \(CUDA failure 2: out of"):
        runner.infer(noise(1))


def test_nodes_on_the_cpu_are_an_error(double: Double, tmp_path: Path, temp_folder: Path) -> None:
    path = write_with_shape_nodes(tmp_path)
    double(on_cpu=("Resize", "Upsample", "Shape", "Slice", "Gather", "Concat"))
    with pytest.raises(BackendUnavailable, match=r"\((Resize|Upsample)\).*allow_cpu_nodes=True"):
        OnnxRuntimeRunner(path, "cuda")
    assert not list(temp_folder.iterdir())
    runner = OnnxRuntimeRunner(path, "cuda", allow_cpu_nodes=True)
    assert any(note.startswith("1 of ") for note in runner.info.notes)
    double(on_cpu=("Shape", "Slice", "Gather", "Concat"))
    assert any("shape nodes" in note for note in OnnxRuntimeRunner(path, "cuda").info.notes)


def test_each_buffer_has_its_own_graph(double: Double, tmp_path: Path) -> None:
    path = write_dynamic(tmp_path)
    reference = OnnxRuntimeRunner(path, threads=1)
    scenario = double()
    runner = OnnxRuntimeRunner(path, "cuda", cuda_graph=True)
    assert scenario.settings["enable_cuda_graph"] == "1"
    assert runner.info.notes == (CUDA, "CUDA graph")
    assert scenario.graphs == ["-1"]  # the trace is of a run without a graph
    wide, tall = (2, 16, 48, 3), (1, 64, 32, 3)
    for seed, shape in enumerate((wide, tall, wide)):
        wanted = reference.infer(noise(seed, shape))
        assert np.array_equal(runner.infer(noise(seed, shape)), wanted)
    runner.stage([noise(3, wide), noise(4, wide)])
    runner.launch(0)
    runner.stage([noise(5, wide), noise(6, tall)])
    for index in (0, 1, 0):
        runner.launch(index)
    runner.synchronize()
    _, first, second, again, before, zero, one, zero_again = scenario.graphs
    assert first == again != second
    assert before == zero == zero_again  # a buffer that fits is used again, with its graph
    assert len({first, second, zero, one}) == 4
    assert scenario.memory is not None
    result = scenario.memory.device[runner._staged[0].slot.results[0]]
    assert np.array_equal(result, reference.infer(noise(5, wide)).reshape(-1))
    assert runner.gpu_seconds(1) == 1.0  # of the double's clock: the run, without what came before
    runner.close()
    assert scenario.memory.opened == 0  # which checks that nothing is held


@pytest.mark.parametrize("graphs", [False, True])
def test_a_confidence_has_a_buffer_of_its_own(double: Double, tmp_path: Path, graphs: bool) -> None:
    path = write_dynamic(tmp_path, confidence=True)
    reference = OnnxRuntimeRunner(path, threads=1)
    scenario = double()
    runner = OnnxRuntimeRunner(path, "cuda", cuda_graph=graphs)
    assert runner.info.head == "mask+confidence"
    for seed, shape in enumerate(((2, 16, 48, 3), (1, 64, 32, 3))):
        images = noise(seed, shape)
        expected, found = (r.infer_with_confidence(images) for r in (reference, runner))
        assert np.array_equal(found.mask, expected.mask)
        assert np.array_equal(found.confidence, expected.confidence)
        assert np.array_equal(runner.infer(images), expected.mask)
        assert found.confidence.dtype == np.uint8 and len(np.unique(found.confidence)) > 10
    runner.close()
    assert scenario.memory is not None and scenario.memory.opened == 0


def test_a_graph_on_the_cpu_and_other_devices(tmp_path: Path) -> None:
    path = write_contract(tmp_path)
    with pytest.raises(InputError, match="CUDA graph on the CPU"):
        OnnxRuntimeRunner(path, cuda_graph=True)
    with pytest.raises(InputError, match="device 'tpu'; expected cpu, cuda"):
        OnnxRuntimeRunner(path, "tpu")


# --- dynamic sides and raw tensors, for real --------------------------------------------------


def test_each_call_chooses_its_shape(tmp_path: Path) -> None:
    runner = OnnxRuntimeRunner(write_dynamic(tmp_path), threads=1)
    fixed = OnnxRuntimeRunner(write_contract(tmp_path), threads=1)
    assert runner.info.shape == (-1, -1, -1, 3)
    both = np.concatenate([noise(1), noise(2)])
    found = runner.infer(both)
    for index in range(2):
        assert np.array_equal(found[index : index + 1], fixed.infer(both[index : index + 1]))
    assert runner.infer(noise(3, (1, 8, 16, 3))).shape == (1, 8, 16)
    both.flags.writeable = False  # as an array that Pillow gives
    assert np.array_equal(runner.infer(both), found)
    for shape in ((1, 36, 64, 3), (0, 32, 64, 3), (1, 32, 64, 4)):
        with pytest.raises(InputError, match="any multiple of 8"):
            runner.infer(noise(0, shape))


def test_float_planes_in_and_logits_out(tmp_path: Path) -> None:
    runner = OnnxRuntimeRunner(write_raw(tmp_path), threads=1)
    planes = noise(1).transpose(0, 3, 1, 2).astype(np.float32)
    logits = runner.infer(planes)
    runner.infer(planes * 0)
    assert (logits.dtype, logits.shape) == (np.float32, (1, 5, HEIGHT, WIDTH))
    masks = OnnxRuntimeRunner(write_contract(tmp_path), threads=1).infer(noise(1))
    assert (logits.argmax(1) == masks).mean() > 0.999
    with pytest.raises(InputError, match="expected float32"):
        runner.infer(noise(1))


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
def test_on_a_gpu(tmp_path: Path, graphs: bool) -> None:
    if reason := gpu_unavailable_reason():
        pytest.skip(reason)
    if CUDA not in ort.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA")
    path = write_dynamic(tmp_path, confidence=True)
    reference = OnnxRuntimeRunner(path, threads=1)
    runner = OnnxRuntimeRunner(path, "cuda", cuda_graph=graphs)
    assert runner.info.notes[0] == CUDA
    assert not any("of" in note and "on the CPU" in note for note in runner.info.notes)
    for seed, shape in enumerate(((1, HEIGHT, WIDTH, 3), (2, 64, 32, 3)) * 2):
        images = noise(seed, shape)
        found, wanted = (r.infer_with_confidence(images) for r in (runner, reference))
        assert (found.mask == wanted.mask).mean() > 0.999
        assert np.abs(found.confidence.astype(int) - wanted.confidence).mean() <= 1
    runner.stage([noise(7), noise(8)])
    for index in (0, 1, 0, 1):
        runner.launch(index)
    runner.synchronize()
    assert runner._buffers is not None
    with runner._buffers.memory.active():
        results = runner._staged[1].slot.results
        outputs = runner.manifest.outputs
        mask, _ = runner._buffers.download(results, outputs, (1, HEIGHT, WIDTH))
    assert (mask == reference.infer(noise(8))).mean() > 0.999
    assert 0 < runner.gpu_seconds(0) < 1
    runner.close()
