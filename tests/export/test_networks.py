"""LEDNet, ERFNet and ENet go the road that DABNet goes: any size, each target, INT8, engines."""

from __future__ import annotations

from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibration.placements import edges_of
from dabnet.artifact import open_artifact
from dabnet.checkpoint import load_checkpoint
from dabnet.graph.facts import layer_name, nodes_of
from dabnet.graph.roofline import kernels_of
from dabnet.models import NETWORKS
from dabnet.models.image_to_mask import ImageToMask
from dabnet.runtime.manifest import Manifest
from export.engine.plan import plan_of_onnx
from export.onnx_export import export_onnx, float_graph
from export.onnx_file import load_onnx
from export.passes.targets import TARGETS, optimize
from export.spec import ExportSpec
from tests.support.rtx_graphs import write_graph
from tests.support.seeded_checkpoint import SIZE, no_bar, noise, write_checkpoint

OTHERS = [name for name in NETWORKS if name != "dabnet"]
FAST = ("erfnet", "fp16", "sm86")
"""Of the engines; the others are slow tests."""
LOGITS = {
    "lednet": "/network/decoder/Slice_output_0",
    "erfnet": "/network/decoder/output_conv/ConvTranspose_output_0",
    "enet": "/network/transposed_conv/ConvTranspose_output_0",
}


@pytest.fixture(scope="module", params=OTHERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return write_checkpoint(folder, decisive=True, model=request.param)


# Random networks have more near ties than trained ones: rounding moves more of their pixels.
LEAST = {"fp32": None, "fp16": 0.98, "int8": 0.85}


def exported(checkpoint: Path, path: Path, **spec: Any) -> Manifest:
    """Write an artifact that agrees with PyTorch on ``LEAST``; return its manifest."""
    least = LEAST[spec.get("precision", "fp32")]
    size = {"size": SIZE, "check_images": 1, "calibration_images": 2}
    whole = ExportSpec(**size, minimum_agreement=least, **spec)
    return export_onnx(checkpoint, path, whole, progress=no_bar)


def masks_of(checkpoint: Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    loaded = load_checkpoint(checkpoint)
    module = ImageToMask(loaded.network(), loaded.preprocessing).eval()
    with torch.inference_mode():
        masks: np.ndarray[Any, Any] = module(torch.from_numpy(images)).numpy()
    return masks


def test_one_file_takes_any_batch_and_size(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "any.onnx"
    manifest = exported(checkpoint, path, dynamic_batch=True, dynamic_size=True)
    assert manifest.logits == LOGITS[manifest.model]
    classes = set[int]()
    with closing(open_artifact(path)) as runner:
        for shape in ((2, *SIZE, 3), (3, 32, 40, 3), (1, 104, 56, 3), (1, 8, 8, 3)):
            images = noise(shape, seed=5)
            found, expected = runner.infer(images), masks_of(checkpoint, images)
            assert (found == expected).mean() >= 0.9999
            classes.update(np.unique(expected))
    assert len(classes) > 1


def test_what_sizes_decide_is_constant_in_a_graph_of_one_size(checkpoint: Path) -> None:
    """And with it every shape is known, which passes for fixed sizes need."""
    loaded, spec = load_checkpoint(checkpoint), ExportSpec(SIZE, optimize_for="ort-cpu")
    traced = float_graph(loaded, spec).model
    assert not {"Shape", "ConstantOfShape"} & {node.op_type for node in traced.graph}
    _, passes = optimize(traced, spec.optimize_for, spec.precision, last=True)
    changed = {done.name: done.changed for done in passes}
    assert changed == ({"prelu_as_relu": 91} if loaded.model == "enet" else {})


def test_dense_only_rounds_the_last_convolution_before_a_transposed_classifier(
    checkpoint: Path,
) -> None:
    loaded = load_checkpoint(checkpoint)
    graph = float_graph(loaded, ExportSpec(SIZE)).model
    names = {str(node.outputs[0].name): layer_name(node) for node in nodes_of(graph.graph, "Conv")}
    rounded = [names[edge.reader] for edge in edges_of(graph, "dense-only")]
    first, *others = names.values()
    left_out = {name for name in others if name not in rounded}
    # Of LEDNet's pyramid, those behind which no other convolution comes.
    last = ("branch1.1", "mid.0", "down3.1", "conv2", "conv1")
    of_pyramid = {f"decoder.apn.{name}.conv.0" for name in last}
    assert left_out == (of_pyramid if loaded.model == "lednet" else set())
    assert first not in rounded


def test_int8(checkpoint: Path, tmp_path: Path) -> None:
    """Every Conv but what the placement leaves out; a ConvTranspose stays in float."""
    path = tmp_path / "int8.onnx"
    manifest = exported(checkpoint, path, precision="int8", calibration_method="minmax")
    kernels = kernels_of(load_onnx(path), (1, *SIZE), "int8")
    kinds = {"Conv": set[str](), "ConvTranspose": set[str]()}
    for kernel in kernels:
        if kernel.precision:
            kinds[kernel.name.rsplit("/", 1)[1].split("_")[0]].add(kernel.precision)
    float_too = set() if manifest.model == "lednet" else {"fp32"}
    assert kinds == {"Conv": {"int8"}, "ConvTranspose": float_too}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_target_and_precision(
    checkpoint: Path, tmp_path: Path, target: str, precision: str
) -> None:
    if (target, precision) == ("ort-cpu", "fp16"):
        pytest.skip("refused: it computes in FP32 all the same")
    exported(checkpoint, tmp_path / "m.onnx", optimize_for=target, precision=precision)


@pytest.mark.slow
def test_raw_tensors_and_a_budget(checkpoint: Path, tmp_path: Path) -> None:
    exported(checkpoint, tmp_path / "raw.onnx", input="float", head="logits")
    small = {"budget_images": 4, "precision": "int8"}
    manifest = exported(checkpoint, tmp_path / "budget.onnx", max_drop=5.0, **small)
    assert manifest.calibration is not None and manifest.calibration.float_layers is not None


ENGINES = [
    pytest.param(*engine, marks=() if engine == FAST else pytest.mark.slow)
    for engine in product(OTHERS, ("fp16", "fp32", "int8"), ("sm86", "sm75", "sm89", "sm120"))
]


@pytest.mark.parametrize(("checkpoint", "precision", "target"), ENGINES, indirect=["checkpoint"])
def test_tensorrt_rtx_builds_it(
    checkpoint: Path, tmp_path: Path, precision: str, target: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "m.onnx"
    write_graph(
        path, ExportSpec(SIZE, precision, optimize_for="tensorrt-rtx"), load_checkpoint(checkpoint)
    )
    found = plan_of_onnx(path, target)
    assert found.kernels > 0
    if precision == "fp16":
        assert set(found.convolutions) == {"Half→Half"}
