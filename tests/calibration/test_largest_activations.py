"""The largest activations on images, which decide what stays FP32 in an FP16 graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from calibration.collect import largest_activations
from dabnet.errors import InputError
from tests.support.contract_graph import contract_model
from tests.support.protobuf_graphs import on_protobuf

largest_activations = on_protobuf(largest_activations)


def images(count: int) -> list[tuple[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        (f"noise {index}", random.integers(0, 256, (32, 64, 3), dtype=np.uint8))
        for index in range(count)
    ]


def largest_of(model: onnx.ModelProto, name: str, image: np.ndarray) -> float:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.ValueInfoProto(name=name))
    cpu = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=cpu)
    return float(np.abs(session.run([name], {"image": image[None]})[0]).max())


def test_largest_activations_are_those_of_all_images() -> None:
    model = contract_model()
    largest = largest_activations(model, images(3))
    floats = [n.output[0] for n in model.graph.node if n.op_type not in ("ArgMax",)][:-1]
    assert sorted(largest) == sorted(floats)
    for name in floats:
        reached = max(largest_of(model, name, image) for _, image in images(3))
        assert largest[name] == pytest.approx(reached, rel=1e-5)
    assert largest["real"] == 255
    with pytest.raises(InputError, match="no images"):
        largest_activations(model, [])
