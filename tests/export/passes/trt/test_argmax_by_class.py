"""Upsample and argmax a class at a time: the mask of the full interpolation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.passes.trt.argmax_by_class import argmax_by_class
from tests.support.pass_graphs import applied, kinds, run
from tests.support.upsampled_logits import (
    assert_confidence,
    assert_same_mask,
    patches,
    upsampled,
)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    classes=st.integers(2, 19),
    sides=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    scales=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    smooth=st.integers(1, 9),
    coordinates=st.sampled_from(["half_pixel", "align_corners"]),
    reach=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 2**31),
)
def test_results_are_those_of_the_full_interpolation(
    batch: int,
    classes: int,
    sides: tuple[int, int],
    scales: tuple[int, int],
    smooth: int,
    coordinates: str,
    reach: float,
    seed: int,
) -> None:
    shape = (batch, classes, *sides)
    how = {"coordinate_transformation_mode": coordinates}
    model = upsampled(shape, scales, TensorProto.UINT8, confidence=True, **how)
    result, changed = applied(argmax_by_class, model)
    assert len(changed) == 1 and not {"Resize", "ArgMax", "ReduceMax"} & set(kinds(result))
    x = reach * patches(np.random.default_rng(seed), shape, smooth)
    expected, (found, confidence) = run(model, x)[0], run(result, x)
    assert found.dtype == confidence.dtype == np.uint8
    assert_same_mask(x, scales, found, expected, **how)
    assert_confidence(x, scales, confidence, **how)
    alone, _ = applied(argmax_by_class, upsampled(shape, scales, TensorProto.UINT8, **how))
    assert (run(alone, x)[0] == found).all() and "Exp" not in kinds(alone)


def test_the_first_of_equal_classes_wins() -> None:
    x = np.zeros((1, 5, 4, 4), np.float32)
    x[:, [2, 4]] = 1.0
    result, _ = applied(argmax_by_class, upsampled(x.shape, (8, 8), TensorProto.UINT8))
    assert (run(result, x)[0] == 2).all()
    assert (run(result, np.zeros_like(x))[0] == 0).all()


def test_a_mask_of_integers_without_cast_keeps_its_type() -> None:
    model = upsampled((1, 3, 4, 5), (8, 8))
    result, _ = applied(argmax_by_class, model)
    x = patches(np.random.default_rng(0), (1, 3, 4, 5), 2)
    assert run(result, x)[0].dtype == np.int64
    assert (run(result, x)[0] == run(model, x)[0]).all()


def test_what_it_leaves_alone() -> None:
    """One class, a fraction as scale, nearest, axes, the last of equals, an open size, percent."""
    last = upsampled((1, 3, 4, 4), (8, 8))
    last.graph.node[1].attribute.append(helper.make_attribute("select_last_index", 1))
    with_axes = upsampled((1, 3, 4, 4), (2, 4))
    with_axes.opset_import[0].version = 18
    with_axes.graph.node[0].attribute.append(helper.make_attribute("axes", [0, 1, 3, 2]))
    for value in (*with_axes.graph.value_info, *with_axes.graph.output):
        value.type.tensor_type.ClearField("shape")
    another = upsampled((1, 3, 4, 4), (8, 8), TensorProto.UINT8, confidence=True)
    next(n for n in another.graph.node if n.op_type == "Mul").input[1] = "hundred"
    hundred = numpy_helper.from_array(np.array(100, np.float32), "hundred")
    another.graph.initializer.append(hundred)
    open_size = upsampled((1, 3, 4, 4), (8, 8))
    for value in (*open_size.graph.input, *open_size.graph.output):
        value.type.tensor_type.shape.dim[-1].dim_param = "width"
    del open_size.graph.value_info[:]
    others = [
        upsampled((1, 1, 4, 4), (8, 8)),
        upsampled((1, 3, 4, 4), (1.5, 2)),
        upsampled((1, 3, 4, 4), (8, 8), mode="nearest"),
        with_axes,
    ]
    for model in (last, open_size, another, *others):
        result, changed = applied(argmax_by_class, model)
        assert changed == [] and kinds(result) == kinds(model)


@pytest.mark.parametrize("batch", [1, 2])
def test_half_precision_is_interpolated_in_single(batch: int) -> None:
    """In FP16 the interpolation would round; here the mask is that of float32 on FP16 logits."""
    shape = (batch, 11, 8, 8)
    single = upsampled(shape, (8, 8), TensorProto.UINT8)
    half = upsampled(shape, (8, 8), TensorProto.UINT8, TensorProto.FLOAT16, confidence=True)
    result, changed = applied(argmax_by_class, half)
    assert len(changed) == 1
    x = patches(np.random.default_rng(1), shape, 2).astype(np.float16)
    wide = x.astype(np.float32)
    found, confidence = run(result, x)
    assert_same_mask(wide, (8, 8), found, run(single, wide)[0])
    assert_confidence(wide, (8, 8), confidence)
