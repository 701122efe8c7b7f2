"""The passes of each target on the real network with its shipped weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from dabnet.checkpoint import load_checkpoint
from dabnet.data.registry import open_dataset
from dabnet.errors import InputError
from dabnet.models.image_to_mask import ImageToMask
from export.onnx_export import coarse_logits, contract_graph
from export.passes.targets import PASS_NAMES, TARGETS, optimize
from export.spec import ExportSpec
from tests.support import ROOT
from tests.support.protobuf_graphs import on_protobuf

coarse_logits = on_protobuf(coarse_logits)
contract_graph = on_protobuf(contract_graph)
optimize = on_protobuf(optimize)

WEIGHTS = ROOT / "weights" / "dabnet_toy_street.pth"
SIZE = (128, 256)


@pytest.fixture(scope="module")
def plain() -> onnx.ModelProto:
    checkpoint = load_checkpoint(WEIGHTS)
    module = ImageToMask(checkpoint.network(), checkpoint.preprocessing).eval()
    return contract_graph(module, ExportSpec(SIZE))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return open_dataset("toy-street", "val", size=SIZE)[0].image[None]


def mask_and_logits(model: onnx.ModelProto, logits: str, image: np.ndarray) -> list[np.ndarray]:
    """The mask, and the logits before the upsample."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    seen.graph.output.append(onnx.ValueInfoProto(name=logits))
    session = ort.InferenceSession(seen.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})


def both_stages(
    model: onnx.ModelProto, target: str, precision: str = "fp32", without: tuple[str, ...] = ()
) -> tuple[onnx.ModelProto, dict[str, int]]:
    model, before = optimize(model, target, precision, without=without)
    model, after = optimize(model, target, precision, last=True, without=without)
    onnx.checker.check_model(model, full_check=True)
    return model, {applied.name: applied.changed for applied in before + after}


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "portable"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_mask_and_logits_stay(
    plain: onnx.ModelProto, image: np.ndarray, target: str, precision: str
) -> None:
    """int8 differs by its choice of passes; Q/DQ itself is inserted between the two stages."""
    model, _ = both_stages(plain, target, precision)
    name = coarse_logits(plain, "classifier")
    expected_mask, expected = mask_and_logits(plain, name, image)
    mask, logits = mask_and_logits(model, name, image)  # the tensor keeps its name
    assert (mask == expected_mask).mean() >= 0.9999
    assert np.abs(logits - expected).max() <= 2e-5 * np.ptp(expected)


@pytest.mark.parametrize(
    "spec",
    [
        ExportSpec((72, 104), batch=2),  # multiples of 8 and of nothing else
        ExportSpec(SIZE, dynamic_size=True, dynamic_batch=True),
    ],
)
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_masks_stay_at_any_size_and_batch(target: str, spec: ExportSpec) -> None:
    checkpoint = load_checkpoint(WEIGHTS)
    module = ImageToMask(checkpoint.network(), checkpoint.preprocessing).eval()
    model = contract_graph(module, spec)
    rewritten, _ = both_stages(model, target)
    for height, width in (spec.size, (136, 40)) if spec.dynamic_size else (spec.size,):
        scenes = open_dataset("toy-street", "val", size=(height, width))
        images = np.stack([scenes[index].image for index in range(2)])
        masks = [
            ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(
                None, {"image": images}
            )[0]
            for graph in (model, rewritten)
        ]
        assert (masks[0] == masks[1]).mean() >= 0.9999


def test_ort_cpu_leaves_nothing_that_leaves_the_blocked_layout(plain: onnx.ModelProto) -> None:
    model, changed = both_stages(plain, "ort-cpu")
    kinds = [node.op_type for node in model.graph.node]
    # The pooled images of 3 channels are outside of it anyway.
    assert kinds.count("PRelu") == kinds.count("BatchNormalization") == 3
    # One Concat joins the strided convolution with the pool. The others lay rows between each
    # other: those of the nine bottlenecks, and where the stem halves its size.
    assert kinds.count("Concat") == 1 + 9 + 2
    assert changed == {
        "sink_concat": 3,
        "winograd": 11,
        "prelu_as_relu": 82,
        "argmax_by_cell": 1,
    }


def test_a_pass_can_be_left_out(plain: onnx.ModelProto) -> None:
    _, changed = both_stages(plain, "ort-cpu", without=("winograd", "sink_concat"))
    assert "winograd" not in changed and "sink_concat" not in changed
    with pytest.raises(
        InputError, match=f"unknown graph pass 'all'; expected one of {PASS_NAMES[0]}"
    ):
        ExportSpec(SIZE, without_passes=("all",))


def test_tensorrt_takes_the_graph_as_the_parser_wants_it(plain: onnx.ModelProto) -> None:
    """Cast before Transpose; in int8 the pooled image suits the features' scale."""
    model, changed = both_stages(plain, "tensorrt", "int8")
    assert [node.op_type for node in model.graph.node][:2] == ["Cast", "Transpose"]
    last = {"residual_as_difference": 7, "prelu_as_max": 71, "argmax_by_class": 1}
    last["bytes_from_float"] = 1
    assert changed == {"scale_image": 1, **last}
    assert both_stages(plain, "tensorrt", "fp16")[1] == last


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_masks_become_bytes_from_floats(target: str, dynamic: bool) -> None:
    """The only conversion to uint8 that TensorRT documents."""
    checkpoint = load_checkpoint(WEIGHTS)
    module = ImageToMask(checkpoint.network(), checkpoint.preprocessing).eval()
    model = contract_graph(module, ExportSpec(SIZE, dynamic_size=dynamic))
    optimised = ir.from_proto(optimize(model, target, "fp32", last=True)[0])
    made = optimised.graph.outputs[0].producer()
    assert made is not None and made.op_type == "Cast"
    (source,) = made.inputs
    assert source is not None and source.producer() is not None
    assert source.producer().attributes.get_int("to") == ir.DataType.FLOAT


def test_passes_that_need_a_size_say_so_where_a_call_chooses_it() -> None:
    checkpoint = load_checkpoint(WEIGHTS)
    module = ImageToMask(checkpoint.network(), checkpoint.preprocessing).eval()
    model = contract_graph(module, ExportSpec(SIZE, dynamic_size=True))
    for target, missing in (
        ("tensorrt-rtx", {"argmax_by_class", "pools_as_slices"}),
        ("ort-cpu", {"winograd"}),
        ("portable", set()),
    ):
        changed = both_stages(model, target)[1]
        assert {name for name, places in changed.items() if not places} == missing


def test_few_sums_write_over_what_is_still_needed(plain: onnx.ModelProto, tmp_path: Path) -> None:
    """onnxruntime writes a fused sum over one summand, in the order in which it really ran.

    What it still needs it copies first, on one thread: the inputs of the two blocks, no more.
    """
    model, _ = both_stages(plain, "ort-cpu")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "run")
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    session.run(None, {"image": np.zeros((1, *SIZE, 3), np.uint8)})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    suffix = "_kernel_time"
    order = [e["name"].removesuffix(suffix) for e in events if e["name"].endswith(suffix)]
    nodes = {node.name: node for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    last = {name: i for i, node in enumerate(order) for name in nodes[node].input}
    convs = [(i, nodes[name]) for i, name in enumerate(order) if nodes[name].op_type == "Conv"]
    sums = [(i, conv.input[3]) for i, conv in convs if len(conv.input) > 3 and conv.input[3]]
    assert len(sums) > 200
    assert len([name for i, name in sums if last[name] > i]) == 2
