"""Requests that cannot be met anywhere are refused when they are written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dabnet.errors import InputError
from export.engine.spec import BuildSpec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("int4",), "precision 'int4'; expected one of fp32, fp16, int8"),
        (("fp32", "86"), "--target '86'"),
        (("fp32", "sm86,"), "--target 'sm86,'"),
        (("fp32", "sm86,sm86"), "each compute capability once"),
        (("fp32", "sm90"), "no Hopper"),
        (("fp32", "sm75,sm86"), "sm75 alone"),
        (("fp32", "sm86", None, "tensorrt"), "only TensorRT-RTX builds for another GPU"),
        (("fp32", None, 0), "--workspace-mib 0; expected at least 1"),
        (("fp32", None, None, "onnxruntime"), "product 'onnxruntime'"),
    ],
)
def test_what_and_where(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BuildSpec(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_shape": (0, 64, 96)}, "shape 0x64x96; expected sides of at least 1"),
        ({"hardware_compatible": "turing"}, "compatible 'turing'; expected one of ampere-plus"),
        ({"calibrator": "entropy"}, "an INT8 calibrator with precision 'fp32'; expected int8"),
        ({"calibration_cache": Path("c")}, "'c' without a calibrator; .*--int8-calibrator"),
    ],
)
def test_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BuildSpec("fp32", **options)
    if "calibrator" in options:
        assert BuildSpec("int8", **options).onnx_precision == "fp32"
        with pytest.raises(InputError, match="--int8-calibrator 'kl'; expected one of entropy"):
            BuildSpec("int8", calibrator="kl")


def test_what_follows() -> None:
    spec = BuildSpec("fp16", "sm86,sm120")
    assert spec.capabilities == ("SM86", "SM120")
    assert (spec.wanted_product, spec.onnx_precision) == ("tensorrt_rtx", "fp16")
    assert (spec.shapes, spec.compatibility) == ({}, ())
    plain = BuildSpec("fp16", opt_shape=(2, 64, 96), version_compatible=True)
    assert (plain.capabilities, plain.wanted_product) == ((), None)
    assert plain.shapes == {"--opt-shape": (2, 64, 96)}
    assert plain.compatibility == ("version",)
