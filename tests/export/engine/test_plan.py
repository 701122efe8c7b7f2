"""Plans of real engines: what they move, and that the graph passes halve it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from calibration.placements import edges_of
from dabnet.errors import ArtifactError
from dabnet.graph.facts import layer_name, nodes_of
from dabnet.runtime.manifest import MANIFEST, engine_manifest_path
from dabnet.runtime.plan import PlanKernel, PlanTensor
from export.cards import CARDS
from export.engine.engine import build_engine
from export.engine.plan import PlanSummary, plan_of_onnx, summary
from export.engine.spec import BuildSpec
from export.int8.cost import CostModel
from export.onnx_file import load_onnx, manifest_of
from export.spec import ExportSpec
from tests.support import ROOT
from tests.support.forked_commands import run_commands
from tests.support.rtx_graphs import of_cityscapes, write_graph

pytest.importorskip("tensorrt_rtx")

SIZE = (512, 1024)
MOST = {"fp32": (42, 560e6), "fp16": (42, 290e6), "int8": (52, 300e6)}
"""Kernels and bytes of activations; a portable graph launches 118 and moves twice as much."""

Built = tuple[ir.Model, Path, PlanSummary]


@pytest.fixture(scope="module", params=list(MOST))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    path = tmp_path_factory.mktemp("plan") / f"{request.param}.onnx"
    spec = ExportSpec(SIZE, request.param, optimize_for="tensorrt-rtx")
    return write_graph(path, spec), path, plan_of_onnx(path, "sm86")


def test_kernels_and_traffic(built: Built) -> None:
    _, path, found = built
    kernels, moved = MOST[path.stem]
    assert found.kernels <= kernels and found.activation_bytes <= moved
    assert found.faults == ()
    assert found.constant_bytes < 5e6
    wanted = {"fp32": "Float→Float", "fp16": "Half→Half", "int8": "Int8→Half"}[path.stem]
    assert found.convolutions[wanted] >= 22
    changed = {p.name: p.changed for p in manifest_of(load_onnx(path), str(path)).passes}
    assert changed["prelu_as_max"] >= 71


def test_the_cost_model_makes_the_kernels_of_the_plan(built: Built) -> None:
    """It counts weights too, and knows nothing of borders and constants."""
    model, path, found = built
    names = {str(n.outputs[0].name): layer_name(n) for n in nodes_of(model.graph, "Conv")}
    layers = [names[e.reader] for e in edges_of(model, "dense-only")]
    card = CARDS["gtx-1080-ti" if path.stem == "fp32" else "rtx-3090"]
    cost = CostModel(model, layers, card, (1, *SIZE))
    float_layers = () if path.stem == "int8" else layers
    assert len(cost.kernels(float_layers)) == pytest.approx(found.kernels, abs=2)
    moved = found.activation_bytes + found.constant_bytes
    assert cost.moved_bytes(float_layers) == pytest.approx(moved, rel=0.03)
    if path.stem != "fp32":  # data sheets of the same card, kernel by kernel
        assert 1e3 * cost.seconds(float_layers) == pytest.approx(
            found.modelled_ms["rtx-3090"], rel=0.05
        )


def test_more_classes_and_a_confidence_cost_little(tmp_path: Path) -> None:
    """The head never writes the logits of all classes at full size: one kernel gives both."""
    path = tmp_path / "half.onnx"
    spec = ExportSpec(SIZE, "fp16", optimize_for="tensorrt-rtx", head="mask+confidence")
    write_graph(path, spec, of_cityscapes())
    found = plan_of_onnx(path, "sm86")
    assert found.kernels <= 42 and found.activation_bytes <= 300e6
    (last,) = (k for k in found.plan if "mask" in {tensor.name for tensor in k.writes})
    written = {tensor.name: (tensor.type, tensor.shape) for tensor in last.writes}
    assert written == dict.fromkeys(("mask", "confidence"), ("UInt8", (1, *SIZE)))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm75", "sm89", "sm120"])
def test_other_cards(built: Built, target: str) -> None:
    _, path, found = built
    other = plan_of_onnx(path, target)
    if target != "sm75":
        assert other.kernels == pytest.approx(found.kernels, rel=0.1)
        assert other.activation_bytes == pytest.approx(found.activation_bytes, rel=0.1)
    elif path.stem == "fp16":
        assert other.kernels <= 42
        assert other.activation_bytes + other.constant_bytes <= 310e6


def test_an_engine_of_any_size_is_built_from_what_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    spec = ExportSpec((72, 104), "fp16", optimize_for="tensorrt-rtx")
    write_graph(path, replace(spec, dynamic_size=True, dynamic_batch=True))
    found = plan_of_onnx(path, "sm86")
    assert found.kernels <= 60  # pools, Resize and ArgMax stand alone
    assert "tensors is chosen by a call" in found.faults[-1]


def test_a_request_that_is_not_honoured_is_said(tmp_path: Path) -> None:
    """sm75 has no int8 convolution, and no TensorRT-RTX fuses a PReLU."""
    path = tmp_path / "plain.onnx"
    write_graph(path, ExportSpec((64, 128), "int8"))
    found = plan_of_onnx(path, "sm75")
    assert found.faults == (
        "60 of 60 int8 convolutions do not compute in int8",
        "71 of 71 PReLUs stand in a kernel without a convolution",
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files of each kind, one engine with its plan and one without."""
    folder = tmp_path_factory.mktemp("files")
    half = ExportSpec((64, 128), "fp16", optimize_for="tensorrt-rtx")
    write_graph(folder / "half.onnx", half)
    foreign = onnx.load(folder / "half.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, folder / "foreign.onnx")
    shutil.copy(ROOT / "weights" / "dabnet_toy_street.pth", folder / "weights.pth")
    for name in ("half.engine", "older.engine"):
        manifest = build_engine(
            folder / "half.onnx", folder / name, BuildSpec("fp16", target="sm86")
        )
    assert manifest.engine is not None
    older = replace(manifest, engine=replace(manifest.engine, plan=()))
    MANIFEST.write(older, engine_manifest_path(folder / "older.engine"))
    text = engine_manifest_path(folder / "half.engine").read_text(encoding="utf-8")
    raw = json.loads(text)
    for name, change in (
        ("other", {"format": 99}),
        (
            "garbled",
            {"engine": {**raw["engine"], "plan": [{**raw["engine"]["plan"][0], "kind": 5}]}},
        ),
    ):
        shutil.copy(folder / "half.engine", folder / f"{name}.engine")
        beside = engine_manifest_path(folder / f"{name}.engine")
        beside.write_text(json.dumps({**raw, **change}), encoding="utf-8")
    return folder


BAD = {
    "half.onnx --plan --target sm90": "no Hopper",
    "half.onnx --plan --target sm61": "takes no target sm61",
    "half.onnx --plan --target 86": "expected compute capabilities",
    "half.onnx --target sm86": "without --plan",
    "foreign.onnx --plan": "no manifest",
    "weights.pth --plan": "expected an ONNX file or an engine",
    "half.engine --plan --target sm86": "expected an ONNX file",
    "older.engine --plan": "without a layer report; expected",
    "other.engine --plan": "format 99; expected format",
    "garbled.engine --plan": "engine.plan[0].kind",
}
GOOD = ("half.engine --plan --json", "half.onnx --plan --target sm86 --json", "half.onnx --plan")


def test_inspect_prints_the_plan(workplace: Path, tmp_path: Path) -> None:
    orders = [["inspect", *order.split()] for order in (*GOOD, *BAD)]
    of_engine, of_onnx, text, *faults = run_commands(orders, workplace, tmp_path)
    found = json.loads(of_engine.stdout)["plan"]
    assert found == json.loads(of_onnx.stdout)["plan"]
    engine = MANIFEST.read(engine_manifest_path(workplace / "half.engine")).engine
    assert engine is not None and len(engine.plan) == found["kernels"]
    assert engine.activation_bytes == found["activation_bytes"] > 0
    assert engine.constant_bytes == found["constant_bytes"]
    assert found["kernels"] == len(found["plan"]) > 30
    assert f"{found['kernels']} kernels" in text.stdout and "modelled ms" in text.stdout
    for done, reason in zip(faults, BAD.values(), strict=True):
        assert done.returncode == 2 and reason in done.stderr, done.args
        assert done.stderr.count("\n") == 1 and done.stdout == ""


def kernel(kind: str, reads: str, writes: str, **more: object) -> PlanKernel:
    tensors = (PlanTensor(name, name, (1, 8, 4, 4)) for name in (reads, writes))
    read, written = tensors
    return PlanKernel("k", kind, (read,), (written,), **more)  # type: ignore[arg-type]


def test_sums_by_hand() -> None:
    weights = PlanTensor("w", "Int8", (8, 8, 3, 3))
    plan = (
        kernel("correlation", "Int8", "Half", constants=(weights,), operators={"Conv": 1}),
        kernel("kgen", "Half", "Int8", constants=(), operators={"PRelu": 1, "Add": 2}),
    )
    found = summary(plan, "rtx", "sm86", {"int8": 2, "fp16": 1})
    assert found.kernels == 2
    assert found.activation_bytes == 128 * (1 + 2 + 2 + 1)
    assert found.constant_bytes == 8 * 8 * 9
    assert found.convolutions == {"Int8→Half": 1}
    assert (found.fused, found.alone) == ({"Conv": 1}, {"PRelu": 1, "Add": 2})
    assert found.faults == (
        "1 of 2 int8 convolutions do not compute in int8",
        "1 of 1 fp16 convolutions do not compute in fp16",
        "1 of 1 PReLUs stand in a kernel without a convolution",
    )
    assert plan[0].multiply_adds == 128 * 8 * 9
    slow = 2 * 2e-3 + 1e3 * (128 * 3 + 576 + 128 * 3) / 936e9  # launches, memory
    assert found.modelled_ms["rtx-3090"] == pytest.approx(slow)
    assert "gtx-1080-ti" not in found.modelled_ms  # half precision crawls there
    with pytest.raises(ArtifactError, match="without a layer report"):
        summary((), "rtx", "sm86")


def test_an_open_size_is_said() -> None:
    unknown = PlanKernel("k", "kgen", (PlanTensor("a", "Half"),), (PlanTensor("b", "Half", (2,)),))
    (fault,) = summary((unknown,), "rtx", "sm86").faults
    assert fault == "the size of 1 of 2 tensors is chosen by a call, and not counted"
