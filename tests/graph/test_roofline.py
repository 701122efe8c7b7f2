"""The roofline against counts by hand, and against the figures of DABNet that are known."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bench.record import Cache
from dabnet.errors import ArtifactError
from dabnet.graph import roofline
from dabnet.graph.facts import inferred, nodes_of, static_shape
from dabnet.graph.roofline import Kernel
from dabnet.models.image_to_mask import ImageToMask
from export.cards import CARDS, Card
from export.onnx_export import contract_graph
from export.spec import ExportSpec
from tests.support.protobuf_graphs import conv_inputs, insert_qdq
from tests.support.seeded_checkpoint import PREPROCESSING, seeded_network

H, W = 8, 16
PIXELS = H * W
SUMS = Card("sums", "sm86", {"fp32": 1.0, "fp16": 2.0, "int8": 4.0}, 1e30, "fp32")


class Drawn:
    """A graph of float32 tensors on an image ``x`` (N, 3, H, W), N open or 1."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def __call__(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: object, dtype: type = np.float32) -> str:
        self.constants[name] = np.asarray(value, dtype)
        return name

    def conv(self, data: str, output: str, shape: tuple[int, ...], **attributes: object) -> str:
        weights = self.constant(f"{output}_w", np.ones(shape))
        bias = self.constant(f"{output}_b", np.ones(shape[0]))
        pads = [side // 2 for side in shape[2:]] * 2
        return self("Conv", [data, weights, bias], output, pads=pads, **attributes)

    def norm(self, data: str, output: str, channels: int) -> str:
        names = [self.constant(f"{output}_{part}", np.ones(channels)) for part in "smbv"]
        return self("BatchNormalization", [data, *names], output)

    def prelu(self, data: str, output: str, channels: int) -> str:
        slope = self.constant(f"{output}_a", np.full((channels, 1, 1), 0.25))
        return self("PRelu", [data, slope], output)

    def quantised(self, data: str, output: str) -> str:
        pair = [self.constant("step", 0.1), self.constant("zero", 0, np.int8)]
        self("QuantizeLinear", [data, *pair], f"{output}_q")
        return self("DequantizeLinear", [f"{output}_q", *pair], output)

    def model(
        self, output: str, batch: int | str = 1, kind: int = TensorProto.FLOAT
    ) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, H, W])
        found = helper.make_tensor_value_info(output, kind, None)
        tensors = [numpy_helper.from_array(v, name) for name, v in self.constants.items()]
        graph = helper.make_graph(self.nodes, "drawn", [image], [found], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def kernels_of(
    model: onnx.ModelProto, example: tuple[int, int, int], precision: str
) -> tuple[Kernel, ...]:
    return roofline.kernels_of(ir.from_proto(model), example, precision)


def traffic(model: onnx.ModelProto, precision: str = "fp32", batch: int = 1) -> list[int]:
    return [kernel.traffic_bytes for kernel in kernels_of(model, (batch, H, W), precision)]


def seconds(
    model: onnx.ModelProto, precision: str, card: Card, size: tuple[int, int] = (H, W)
) -> float:
    """Each kernel after the other, at the longer of its arithmetic and its traffic."""
    return sum(max(kernel.seconds(card)) for kernel in kernels_of(model, (1, *size), precision))


def arithmetic(
    model: onnx.ModelProto, precision: str, card: Card, size: tuple[int, int] = (H, W)
) -> float:
    return sum(kernel.seconds(card)[0] for kernel in kernels_of(model, (1, *size), precision))


def weights(kernel: tuple[int, ...]) -> int:
    """Elements, the bias among them."""
    return math.prod(kernel) + kernel[0]


def test_what_acts_pixel_by_pixel_costs_nothing() -> None:
    """x ─ conv a ─ Add x3 ─ BatchNormalization ─ PReLU ─ conv b; the sum is read again at the end.

    Both what is done before it is written (Add) and what is done when it is read.
    """
    graph = Drawn()
    first = graph.conv("x", "first", (3, 3, 3, 3))
    total = graph("Add", [first, "x"], "total")
    active = graph.prelu(graph.norm(total, "normed", 3), "active", 3)
    second = graph.conv(active, "second", (3, 3, 1, 1))
    model = graph.model(graph("Add", [second, total], "out"))
    a = 4 * (3 * PIXELS + weights((3, 3, 3, 3)) + 3 * PIXELS)  # x, weights → the sum
    b = 4 * (3 * PIXELS + weights((3, 3, 1, 1)) + 3 * PIXELS)  # the sum, once for both → out
    assert traffic(model) == [a, b]
    multiply_adds = [kernel.multiply_adds for kernel in kernels_of(model, (1, H, W), "fp32")]
    assert multiply_adds == [PIXELS * 3 * 27, PIXELS * 3 * 3]


def test_parts_of_a_concat_are_written_in_place() -> None:
    graph = Drawn()
    conv = graph.conv("x", "conv", (5, 3, 3, 3), strides=[2, 2])
    pool = graph("MaxPool", ["x"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    joined = graph("Concat", [conv, pool], "joined", axis=1)
    last = graph.conv(graph.norm(joined, "normed", 8), "last", (2, 8, 1, 1))
    quarter = PIXELS // 4
    assert traffic(graph.model(last)) == [
        4 * (3 * PIXELS + weights((5, 3, 3, 3)) + 5 * quarter),
        4 * (3 * PIXELS + 3 * quarter),
        4 * (8 * quarter + weights((2, 8, 1, 1)) + 2 * quarter),
    ]


def test_int8_moves_bytes_and_a_float_reader_gets_its_own_form() -> None:
    graph = Drawn()
    first = graph.conv("x", "first", (8, 3, 1, 1))
    graph.constant("second_wq", np.ones((8, 8, 3, 3)), np.int8)
    graph("DequantizeLinear", ["second_wq", graph.constant("step", 0.1)], "second_w")
    data = graph.quantised(graph.prelu(first, "active", 8), "data")
    second = graph("Conv", [data, "second_w"], "second", pads=[1, 1, 1, 1])
    both = graph.model(graph("Add", [second, "active"], "out"))
    kernels = kernels_of(both, (1, H, W), "int8")
    assert [kernel.precision for kernel in kernels] == ["fp32", "int8"]
    assert [kernel.traffic_bytes for kernel in kernels] == [
        4 * (3 * PIXELS + weights((8, 3, 1, 1)) + 8 * PIXELS),
        4 * 8 * PIXELS + 8 * 8 * 9 + 4 * 8 * PIXELS,  # the kernel of both reads the wider form
    ]
    graph.nodes.pop()
    alone = graph.model(second)
    assert traffic(alone, "int8") == [
        4 * (3 * PIXELS + weights((8, 3, 1, 1))) + 8 * PIXELS,  # written as int8 only
        8 * PIXELS + 8 * 8 * 9 + 4 * 8 * PIXELS,
    ]
    pool = graph("MaxPool", ["active"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    graph("Resize", [pool, "", graph.constant("scales", [1, 1, 2, 2])], "large")
    apart = graph.model(graph("Concat", [second, "large"], "out", axis=1))
    assert traffic(apart, "int8")[0] == 4 * (3 * PIXELS + weights((8, 3, 1, 1))) + (4 + 1) * (
        8 * PIXELS
    )


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT32])
def test_upsample_and_argmax_are_one_kernel(kind: int) -> None:
    graph = Drawn()
    logits = graph.conv("x", "logits", (5, 3, 1, 1))
    large = graph("Resize", [logits, "", graph.constant("scales", [1, 1, 8, 8])], "large")
    labels = graph("ArgMax", [large], "labels", axis=1, keepdims=0)
    mask = graph("Cast", [labels], "mask", to=kind)
    width = 1 if kind == TensorProto.UINT8 else 4
    found = traffic(graph.model(mask, kind=kind))
    assert found[1:] == [4 * 5 * PIXELS + width * 64 * PIXELS]


def test_prelu_rewritten_as_depthwise_convolutions_is_the_same_work() -> None:
    plain, rewritten = Drawn(), Drawn()
    first = plain.conv("x", "first", (8, 3, 3, 3))
    plain.prelu(first, "out", 8)
    first = rewritten.conv("x", "first", (8, 3, 3, 3))
    negative = rewritten("Relu", [rewritten.conv(first, "less", (8, 1, 1, 1), group=8)], "negative")
    straight = rewritten.conv(first, "straight", (8, 1, 1, 1), group=8)
    rewritten("Add", [straight, negative], "out")
    graphs = [drawn.model("out") for drawn in (plain, rewritten)]
    assert kernels_of(graphs[0], (1, H, W), "fp32") == kernels_of(graphs[1], (1, H, W), "fp32")


def test_precision_of_a_float32_graph_and_open_sides() -> None:
    graph = Drawn()
    model = graph.model(graph.conv("x", "y", (4, 3, 1, 1)), batch="n")
    whole = traffic(model)[0]
    per_image = 4 * (3 + 4) * PIXELS
    assert traffic(model, batch=3)[0] == whole + 2 * per_image
    assert traffic(model, "fp16") == [whole // 2]
    adds = PIXELS * 12
    times = {name: seconds(model, name, SUMS) for name in ("fp32", "bf16", "int8")}
    assert times == {"fp32": adds, "bf16": adds / 2, "int8": adds / 4}
    for known in ({"fp32": 1.0, "int8": 0.5}, {"fp32": 1.0}):
        assert seconds(model, "int8", Card("slow", "sm86", known, 1e30, "fp32")) == adds


def test_a_graph_of_another_size_is_refused() -> None:
    graph = Drawn()
    model = graph.model(graph.conv("x", "y", (4, 3, 1, 1)))
    with pytest.raises(ArtifactError, match="has 1 on axis 0; expected one for .* = \\(2, 8, 16"):
        kernels_of(model, (2, H, W), "fp32")


sizes, rates = st.integers(0, 10**10), st.floats(1e3, 1e15)


@given(sizes, sizes, rates, rates, rates)
def test_a_cache_shortens_the_traffic_and_no_more_than_it_can(
    traffic_bytes: int, size: int, memory: float, rate: float, other: float
) -> None:
    card = Card("any", "sm86", {"fp32": 1.0}, memory, "fp32")

    def seconds(cache: Cache | None) -> float:
        return Kernel("any", "fp32", 0, traffic_bytes).seconds(card, cache)[1]

    without, found = seconds(None), seconds(Cache(size, rate))
    assert found <= without == seconds(Cache(0, rate)) == pytest.approx(traffic_bytes / memory)
    slow, fast = sorted((rate, other))
    assert seconds(Cache(size, fast)) <= seconds(Cache(size, slow))
    assert found >= traffic_bytes / max(rate, memory)  # all of it passes the cache
    assert found >= (traffic_bytes - 2 * size) / memory  # read before and written after
    if traffic_bytes <= 2 * size and rate >= memory:
        assert found == traffic_bytes / rate


FULL_SIZE = (512, 1024)


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    module = ImageToMask(seeded_network(classes=19), PREPROCESSING).eval()
    return ir.to_proto(contract_graph(module, ExportSpec(FULL_SIZE)))


def test_dabnet_on_a_gtx_1080_ti(network: onnx.ModelProto) -> None:
    """60 convolutions, 4 pools, and the upsample with its argmax.

    Bounds with kernels of their own for each normalisation behind an Add or a Concat are longer by
    what those read and write: with 22 of them, 3.1 ms.
    """
    kernels = kernels_of(network, (1, *FULL_SIZE), "fp32")
    found = seconds(network, "fp32", CARDS["gtx-1080-ti"], FULL_SIZE)
    assert len(kernels) == 60 + 4 + 1
    assert sum(kernel.multiply_adds for kernel in kernels) == pytest.approx(10.2e9, rel=0.01)
    of_sums = arithmetic(network, "fp32", CARDS["gtx-1080-ti"], FULL_SIZE)
    assert of_sums == pytest.approx(1.81e-3, rel=0.01)
    assert found == pytest.approx(2.57e-3, rel=0.03)
    graph = inferred(ir.from_proto(network)).graph
    norms = [norm.outputs[0] for norm in nodes_of(graph, "BatchNormalization")]
    assert len(norms) == 22
    moved = 2 * 4 * sum(math.prod(static_shape(value) or ()) for value in norms)
    assert found + moved / 484e9 == pytest.approx(3.11e-3, rel=0.03)


@pytest.mark.parametrize(
    ("card", "precision", "expected"),
    [("rtx-3090", "fp16", 0.38e-3), ("h200", "fp16", 0.069e-3), ("gtx-1080-ti", "int8", 0.71e-3)],
)
def test_dabnet_in_other_types(
    network: onnx.ModelProto, card: str, precision: str, expected: float
) -> None:
    """Against bounds of 64 kernels that were made without this code; int8 differs most."""
    found = seconds(network, precision, CARDS[card], FULL_SIZE)
    assert found == pytest.approx(expected, rel=0.13)


def test_dabnet_as_qdq(network: onnx.ModelProto) -> None:
    """Each convolution multiplies int8; what Add reads stays float32, so it moves more."""
    quantised, _ = insert_qdq(network, dict.fromkeys(conv_inputs(network), 1.0))
    kernels = kernels_of(quantised, (1, *FULL_SIZE), "int8")
    assert sum(kernel.precision == "int8" for kernel in kernels) == 60
    assert len(kernels) == 65
    cases = ((network, "fp32"), (quantised, "int8"), (network, "int8"))
    card = CARDS["gtx-1080-ti"]
    float32, qdq, pure = (arithmetic(*case, card, FULL_SIZE) for case in cases)
    assert qdq == pure == pytest.approx(float32 / 4, rel=0.01)
    float32, qdq, pure = (seconds(*case, card, FULL_SIZE) for case in cases)
    assert pure < qdq < float32
