"""Upsample and argmax cell by cell: the mask of the full interpolation, for whatever logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from export.passes.ort.argmax_by_cell import argmax_by_cell
from tests.support.pass_graphs import applied, kinds, run
from tests.support.upsampled_logits import (
    assert_confidence,
    assert_same_mask,
    patches,
    upsampled,
)


@settings(max_examples=30, deadline=None)
@given(
    classes=st.integers(1, 19),
    sides=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    scales=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    smooth=st.integers(1, 9),
    reach=st.sampled_from([0.1, 1.0, 3.0, 10.0]),
    seed=st.integers(0, 2**31),
)
def test_results_are_those_of_the_full_interpolation(
    classes: int,
    sides: tuple[int, int],
    scales: tuple[int, int],
    smooth: int,
    reach: float,
    seed: int,
) -> None:
    """``reach`` leaves no corner sure, some of them, or nearly all."""
    shape = (2, classes, *sides)
    model = upsampled(shape, scales, TensorProto.UINT8, confidence=True)
    result, changed = applied(argmax_by_cell, model)
    assert len(changed) == 1 and "Resize" not in kinds(result)
    x = reach * patches(np.random.default_rng(seed), shape, smooth)
    expected, (found, confidence) = run(model, x)[0], run(result, x)
    assert found.dtype == confidence.dtype == np.uint8
    assert_same_mask(x, scales, found, expected)
    assert_confidence(x, scales, confidence)


@pytest.mark.parametrize("mode", ["half_pixel", "pytorch_half_pixel"])
def test_every_cell_and_no_cell_at_all(mode: str) -> None:
    """Noise has two classes in each cell; one class everywhere leaves nothing to interpolate."""
    shape = (1, 11, 12, 20)
    integers = {"cast": TensorProto.INT32, "coordinate_transformation_mode": mode}
    model = upsampled(shape, (8, 8), confidence=True, **integers)
    result, _ = applied(argmax_by_cell, model)
    noise = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    constant = np.zeros(shape, np.float32)
    constant[:, 4] = 20
    for x in (noise, constant):
        expected, (found, confidence) = run(model, x)[0], run(result, x)
        assert found.dtype == confidence.dtype == np.int32
        assert_same_mask(x, (8, 8), found, expected)
        assert_confidence(x, (8, 8), confidence)
    assert (confidence == 255).all()


def test_sides_that_a_call_chooses() -> None:
    model = upsampled((1, 5, 4, 4), (8, 8), TensorProto.UINT8, confidence=True)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        shape = value.type.tensor_type.shape
        for axis in {4: (0, 2, 3), 3: (0, 1, 2)}.get(len(shape.dim), ()):
            shape.dim[axis].ClearField("dim_value")
    result, changed = applied(argmax_by_cell, model)
    assert len(changed) == 1
    for shape in ((1, 5, 3, 7), (3, 5, 6, 2)):
        x = patches(np.random.default_rng(2), shape, 3)
        found, confidence = run(result, x)
        assert_same_mask(x, (8, 8), found, run(model, x)[0])
        assert_confidence(x, (8, 8), confidence)


@pytest.mark.parametrize(
    ("scales", "resize"),
    [
        ((8, 8), {"coordinate_transformation_mode": "align_corners"}),
        ((8, 8), {"coordinate_transformation_mode": "asymmetric"}),
        ((8, 8), {"mode": "nearest"}),
        ((1.5, 2), {}),
    ],
)
def test_another_interpolation_is_left_alone(
    scales: tuple[float, float], resize: dict[str, str]
) -> None:
    model = upsampled((1, 3, 4, 6), scales, **resize)
    result, changed = applied(argmax_by_cell, model)
    assert changed == [] and kinds(result) == ["Resize", "ArgMax"]
