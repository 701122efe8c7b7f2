"""Where two graphs part: faults are put into known nodes, and those nodes must be named."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from dabnet.errors import ArtifactError, InputError
from dabnet.graph.execution import Stepwise, ending_at
from dabnet.models.image_to_mask import ImageToMask
from export.onnx_export import contract_graph
from export.spec import ExportSpec
from export.verify.layers import LayerReport, compare_layers, difference
from tests.support.contract_graph import HEIGHT, WIDTH, contract_model
from tests.support.protobuf_graphs import insert_qdq
from tests.support.seeded_checkpoint import PREPROCESSING, SIZE, no_bar, noise, seeded_network

IMAGE = noise((1, HEIGHT, WIDTH, 3), 5)


@pytest.fixture(scope="module")
def dabnet() -> onnx.ModelProto:
    module = ImageToMask(seeded_network(), PREPROCESSING).eval()
    return ir.to_proto(contract_graph(module, ExportSpec(SIZE)))


def compare(a: onnx.ModelProto, b: onnx.ModelProto, tolerance: float = 1e-3) -> LayerReport:
    side = a.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    image = IMAGE if side == HEIGHT else noise((1, *SIZE, 3), 5)
    return compare_on(image, a, b, tolerance)


def compare_on(
    image: np.ndarray, a: onnx.ModelProto, b: onnx.ModelProto, tolerance: float = 1e-3
) -> LayerReport:
    graphs = ir.from_proto(a), ir.from_proto(b)
    return compare_layers(*graphs, "noise", (image, image), tolerance, progress=no_bar)


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def with_one_weight_changed(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.ModelProto:
    """A copy in which one of the node's weights is another number."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (tensor,) = (t for t in copy.graph.initializer if t.name == node.input[1])
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[values.size // 2] += 2 * np.abs(values).max()
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


def check_named(report: LayerReport, node: onnx.NodeProto) -> None:
    """The node is named in both graphs; what it reads is equal but for its weights."""
    parting = report.parting
    assert parting is not None
    assert parting.tensor == node.output[0]
    assert parting.node_a == parting.node_b == f"{node.name} (Conv)"
    assert [read.a for read in parting.inputs] == list(node.input)
    assert [read.a for read in parting.inputs if read.relative_error != 0] == [node.input[1]]
    place = [tensor.a for tensor in report.tensors].index(parting.tensor)
    assert all(tensor.relative_error == 0 for tensor in report.tensors[:place])


def test_one_weight_in_each_convolution_of_a_graph() -> None:
    model = contract_model()
    assert len(convolutions(model)) == 4
    for node in convolutions(model):
        check_named(compare(model, with_one_weight_changed(model, node)), node)


def test_one_weight_in_convolutions_of_dabnet(dabnet: onnx.ModelProto) -> None:
    found = convolutions(dabnet)
    for node in (found[0], found[7], found[33], found[-1]):
        check_named(compare(dabnet, with_one_weight_changed(dabnet, node)), node)


def test_equal_graphs_do_not_part(dabnet: onnx.ModelProto) -> None:
    report = compare(dabnet, dabnet)
    assert (report.parting, report.rejoins) == (None, None)
    assert (report.unmatched_a, report.unmatched_b) == (0, 0)
    # Every float tensor that a node computes, in the order of the nodes.
    kinds = ("Conv", "PRelu", "BatchNormalization", "Add", "Resize")
    expected = [node.output[0] for node in dabnet.graph.node if node.op_type in kinds]
    named = {tensor.a for tensor in report.tensors}
    assert [tensor.a for tensor in report.tensors if tensor.a in set(expected)] == expected
    assert len(named) == len(report.tensors)
    assert all(tensor.max_abs == 0 and tensor.sqnr_db is None for tensor in report.tensors)


def test_quantising_one_convolution_is_found_there() -> None:
    model = contract_model()
    node = convolutions(model)[2]
    quantised, _ = insert_qdq(model, {node.input[0]: 1500.0})
    report = compare(model, quantised)
    assert report.parting is not None
    assert (report.parting.tensor, report.parting.node_b) == ("third", "third (Conv)")
    data, weights, bias = report.parting.inputs
    assert (data.a, data.b) == ("second", "second_dequantized")
    assert (weights.a, weights.b) == ("third_w", "third_w_dequantized")
    # A step of 1500 / 127 is off by a half at most, and of a uniform error in the mean square.
    assert data.max_abs is not None
    assert 0 < data.max_abs <= 1500 / 127 / 2 * (1 + 1e-6)
    assert weights.parted
    assert bias.relative_error == 0
    assert (report.unmatched_a, report.unmatched_b) == (0, 2)  # the two Dequantize outputs
    assert report.parting is not None
    assert report.parting.inputs[0].b == "second_dequantized"


def test_a_node_of_another_operator_is_named_with_what_both_read() -> None:
    model = contract_model()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    (node,) = (node for node in other.graph.node if node.op_type == "Add")
    node.op_type, node.input[0], node.input[1] = "Sum", node.input[1], node.input[0]
    node.input.append("third")
    parting = compare(model, other).parting
    assert parting is not None
    assert (parting.node_a, parting.node_b) == ("sum (Add)", "sum (Sum)")
    assert [(read.a, read.relative_error) for read in parting.inputs] == [
        ("third", 0.0),
        ("active", 0.0),
    ]


def test_a_name_that_stands_for_another_value_is_told_apart_from_a_fault() -> None:
    """As after a pass that moves a factor past a linear node: the graph says the same later."""
    model = contract_model()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    nodes = other.graph.node
    (place,) = (i for i, node in enumerate(nodes) if node.output[0] == "second")
    for name, factor in (("second_w", 0.5), ("second_b", 0.5), ("third_w", 2.0)):
        (tensor,) = (t for t in other.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    report = compare(model, other)
    assert report.parting is not None
    assert report.parting.tensor == nodes[place].output[0]
    assert report.rejoins is not None
    assert report.rejoins.a == "logits"


def test_renamed_and_changed_nodes_are_passed_over() -> None:
    model = contract_model()
    renamed = with_one_weight_changed(model, convolutions(model)[1])
    for node in renamed.graph.node:
        for names in (node.input, node.output):
            names[:] = ["other" if name == "second" else name for name in names]
    report = compare(model, renamed)
    assert report.parting is not None
    assert report.parting.tensor == "third"  # the next one that both have
    assert (report.unmatched_a, report.unmatched_b) == (1, 1)
    data = report.parting.inputs[0]
    assert (data.a, data.b) == ("second", "other")
    assert data.parted  # the reader sees that the fault lies before


def test_a_tensor_is_held_only_until_both_graphs_have_it(
    dabnet: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tensors of both graphs at 512×1024 would take 1.6 GB."""
    alive: set[int] = set()
    most = 0
    run = Stepwise.run

    def watched(graph: Stepwise, feeds: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        nonlocal most
        for name, values in run(graph, feeds):
            alive.add(id(values))
            weakref.finalize(values, alive.discard, id(values))
            most = max(most, len(alive))
            yield name, values

    monkeypatch.setattr(Stepwise, "run", watched)
    report = compare(dabnet, with_one_weight_changed(dabnet, convolutions(dabnet)[5]))
    assert len(report.tensors) > 150
    assert most < 20


def test_open_sides_are_filled_in_by_the_image() -> None:
    model = contract_model()
    for axis, name in enumerate("NHW"):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
        model.graph.output[0].type.tensor_type.shape.dim[axis].dim_param = name
    node = convolutions(model)[0]
    image = noise((1, 16, 24, 3), 5)
    changed = with_one_weight_changed(model, node)
    report = compare_on(image, model, changed)
    check_named(report, node)
    assert report.tensors[-1].shape_a == (1, 5, 16, 24)


def test_graphs_that_cannot_be_compared() -> None:
    model, strange = contract_model(), contract_model()
    for node in strange.graph.node:
        for names in (node.input, node.output):
            names[:] = [n if n in ("image", "mask") or not n else f"{n}_x" for n in names]
    for tensor in strange.graph.initializer:
        tensor.name += "_x"
    with pytest.raises(InputError, match="share no tensor by name"):
        compare(model, strange)
    with pytest.raises(ArtifactError, match="A does not run on the image"):
        compare_on(IMAGE[..., :2], model, model)


def test_fp16_is_rounded_as_the_graph_says() -> None:
    """In one session onnxruntime's CPU provider would compute in FP32 between two nodes."""
    report = compare(contract_model(), contract_model("fp16"))
    by_name = {tensor.a: tensor for tensor in report.tensors}
    names = ("second", "sum")
    values = dict(Stepwise(ir.from_proto(contract_model("fp16")), names).run({"image": IMAGE}))
    single_precision = ir.to_proto(ending_at(ir.from_proto(contract_model()), names))
    reference = onnxruntime.InferenceSession(single_precision.SerializeToString())
    for name, single in zip(names, reference.run(None, {"image": IMAGE}), strict=True):
        half = values[name]
        assert half.dtype == np.float16
        expected = difference(name, name, single, half, 1e-3).relative_error
        assert by_name[name].relative_error == pytest.approx(expected, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e3), st.sampled_from(["float16", "float32"]))
def test_difference_is_that_of_the_definition(seed: int, scale: float, dtype: str) -> None:
    random = np.random.default_rng(seed)
    a = random.normal(size=(2, 3, 4)).astype(dtype)
    b = (a + scale * random.normal(size=a.shape)).astype(dtype)
    found = difference("a", "b", a, b, tolerance=1e-3)
    apart = a.astype(np.float64) - b.astype(np.float64)
    relative = np.linalg.norm(apart) / np.linalg.norm(a.astype(np.float64))
    assert found.max_abs == np.abs(apart).max()
    assert found.relative_error == pytest.approx(relative, rel=1e-12)
    assert found.parted == (relative > 1e-3)
    if relative > 0:
        assert found.sqnr_db == pytest.approx(-20 * math.log10(relative))
    else:
        assert found.sqnr_db is None


def test_difference_where_no_ratio_can_be_told() -> None:
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    nan = np.array([1, np.nan, 3], np.float32)
    for a, b, relative, parted in (
        (zero, zero, 0.0, False),
        (zero, one, None, True),  # a is 0, b is not
        (one, nan, None, True),
        (nan, nan, 0.0, False),  # the same NaN in both
        (one, np.ones((3, 1), np.float32), None, True),
    ):
        found = difference("a", "b", a, b, tolerance=1e-3)
        assert (found.relative_error, found.parted) == (relative, parted)
