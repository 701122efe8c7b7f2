"""A small uint8-image network with the edges that matter: several readers, a pool, a Concat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration import calibrate as product
from calibration.calibration_file import Calibration, Subject, graph_sha256
from dabnet.data.images import SizedImage
from tests.support.listed_images import sized_image
from tests.support.protobuf_graphs import on_protobuf

SIZE = (12, 16)  # height, width in pixels
TRAIN = {"dataset": "toy", "split": "train"}

calibrate = on_protobuf(product.calibrate)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    batch: int | str = "N",
    opset: int = 17,
) -> onnx.ModelProto:
    """A checked model: ``image`` uint8 (N, H, W, 3) → ``logits``, with one metadata entry."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, *SIZE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "K", "h", "w"])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="test"
    )
    helper.set_model_props(model, {"dabnet_manifest": "{}"})
    onnx.checker.check_model(model, full_check=True)
    return model


def stem() -> list[onnx.NodeProto]:
    """image → ``x``, float32 (N, 3, H, W), 0…255."""
    return [
        helper.make_node("Cast", ["image"], ["nhwc"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["nhwc"], ["x"], perm=[0, 3, 1, 2]),
    ]


def small_net(seed: int = 0, *, batch: int | str = "N") -> onnx.ModelProto:
    """x → first → PReLU y; y → (depthwise, pointwise, pool) → Concat z → Add → last → logits."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        fan_in = np.prod(shape[1:])
        return (random.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

    weights = {
        "first.weight": normal(8, 3, 3, 3),
        "first.bias": random.standard_normal(8).astype(np.float32),
        "slope": np.full((8, 1, 1), 0.25, np.float32),
        "depthwise.weight": normal(8, 1, 3, 1),
        "pointwise.weight": normal(4, 8, 1, 1),
        "last.weight": normal(5, 20, 1, 1),
        "last.bias": random.standard_normal(5).astype(np.float32),
    }
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        *stem(),
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["c"], name="first", **same),
        helper.make_node("PRelu", ["c", "slope"], ["y"]),
        helper.make_node(
            "Conv",
            ["y", "depthwise.weight"],
            ["d"],
            name="depthwise",
            group=8,
            pads=[2, 0, 2, 0],
            dilations=[2, 1],
        ),
        helper.make_node("Conv", ["y", "pointwise.weight"], ["p"], name="pointwise"),
        helper.make_node("MaxPool", ["y"], ["m"], name="pool", kernel_shape=[3, 3], **same),
        helper.make_node("Concat", ["d", "p", "m"], ["z"], name="concat", axis=1),
        helper.make_node("Conv", ["z", "last.weight", "last.bias"], ["l"], name="last"),
        helper.make_node("Relu", ["l"], ["logits"]),
    ]
    return make_model(nodes, weights, batch=batch)


def images(count: int, seed: int = 1) -> list[tuple[str, np.ndarray]]:
    """Named uint8 images, (H, W, 3), smooth enough that neighbours correlate."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, SIZE[0] // 4, SIZE[1] // 4, 3), dtype=np.uint8)
    smooth = coarse.repeat(4, axis=1).repeat(4, axis=2)
    return [(f"image_{index:03d}", image) for index, image in enumerate(smooth)]


def named(count: int) -> list[SizedImage]:
    """``images`` as those of a data set."""
    return [sized_image(name, image) for name, image in images(count)]


def subject(model: onnx.ModelProto) -> Subject:
    return Subject("c" * 64, on_protobuf(graph_sha256)(model), "portable", SIZE)


def seen(count: int, model: onnx.ModelProto | None = None, **options: object) -> Calibration:
    """Calibration of ``small_net``, or another model, by so many images."""
    model = model or small_net()
    return calibrate(model, iter(named(count)), subject(model), **{**TRAIN, **options})


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def exact_logits(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    """The graph's own arithmetic: without onnxruntime's fusion of Q/DQ into int8 kernels."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"image": batch})[0]
