"""Kernels and their types, from reports as TensorRT writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dabnet.runtime.plan import types_of
from dabnet.runtime.trt.layers import (
    describe,
    plan_of_engine,
    plan_of_report,
    precision_fault,
)
from tests.support.tensorrt_double import inspector_json, layer_report


class Inspected:
    """Module, engine and inspector in one, with a text to return."""

    LayerInformationFormat = type("LayerInformationFormat", (), {"JSON": "JSON"})

    def __init__(self, *layers: dict[str, Any]) -> None:
        self.text = json.dumps({"Layers": layers})

    def create_engine_inspector(self) -> Inspected:
        return self

    def get_engine_information(self, kind: str) -> str:
        assert kind == "JSON"
        return self.text


def layer(kind: str, reads: str, writes: str, **more: Any) -> dict[str, Any]:
    """One layer as TensorRT 10 lists those of its compiler."""
    return {
        "Name": "x",
        "LayerType": kind,
        "Inputs": [{"Name": "a", "Format/Datatype": reads}] if reads else [],
        "Outputs": [{"Name": "b", "Format/Datatype": writes}],
        **more,
    }


@pytest.mark.parametrize(
    ("listed", "kind"),
    [
        (layer("fusion", "Int8", "Half"), "Int8"),
        (layer("kgen", "Int8", "Half"), "Half"),  # dequantises
        (layer("Reformat", "Row major Int8 format", "Row major linear FP32"), "Float"),
        (layer("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format.",
               "Row major linear FP16 format", Weights={"Type": "Int8", "Count": 9}), "Int8"),
        (layer("correlation", "Int8", "Float", Constants=[{"Datatype": "Float"}]), "Float"),
        (layer("correlation", "Int8", "Float", Constants=[{"Datatype": "Int8"}]), "Int8"),
        (layer("Pooling", "Channel major INT8 format where channel % 16 == 0", "Int8"), "Int8"),
        (layer("kgen", "Float", "Int8"), "Float"),  # quantises
        (layer("kgen", "", "Half"), "Half"),  # reads constants only
        (layer("kgen", "UInt8", "Float"), "UInt8"),
        (layer("gemm", "Row major linear BFloat16 format", "Float"), "BFloat16"),
    ],
)  # fmt: skip
def test_the_type_in_which_a_layer_computes(listed: dict[str, Any], kind: str) -> None:
    inspected = Inspected(listed)
    assert types_of(plan_of_engine(inspected, inspected)) == {kind: 1}


def test_reports_of_both_kinds_agree() -> None:
    inspected = Inspected()
    inspected.text = inspector_json("Int8", "FP32", "Int8")
    found = {"Float": 1, "Int8": 2}
    assert types_of(plan_of_engine(inspected, inspected)) == found
    assert types_of(plan_of_report(layer_report("Int8", "Float", "Int8"))) == found
    assert types_of(plan_of_report("")) == {}


def test_what_a_report_may_lack() -> None:
    """A tensor without a type, a scalar, an open size, constants without names, a line's start."""
    line = (
        "Name: k, LayerType: kgen, Inputs: [ { Name: a, Dimensions: [] }, { Name: b, Dimensions: "
        "[], Datatype: Half, Format: f }, { Name: c, Dimensions: [1,-1], Datatype: Half, Format: f "
        "}], Constants: [ { Dimensions: [2,3], Datatype: Half, Format: f }, { Dimensions: [2,3], "
        "Datatype: Half, Format: f }], Outputs: [ { Name: y, Dimensions: [4], Datatype: Int8, "
        "Format: f }], TacticName: t"
    )
    (kernel,) = plan_of_report(line)
    assert [(t.name, t.shape) for t in kernel.reads] == [("b", ()), ("c", None)]
    assert (kernel.activation_bytes, kernel.constant_bytes) == (2 + 0 + 4, 24)
    assert plan_of_report("LayerType: kgen")[0].reads == ()


def test_weights_that_are_listed_by_their_number() -> None:
    found = layer("CaskConvolution", "Int8", "Half", Weights={"Type": "Int8", "Count": 8 * 4 * 9})
    found["Outputs"][0]["Dimensions"] = [1, 8, 10, 10]
    inspected = Inspected(found)
    (kernel,) = plan_of_engine(inspected, inspected)
    assert kernel.multiply_adds == 8 * 10 * 10 * 4 * 9


def test_a_condition_is_not_the_type() -> None:
    report = layer_report("Bool").replace("}], Constants", "}, { Datatype: Half }], Constants")
    assert types_of(plan_of_report(report)) == {"Half": 1}


def test_faults_of_precision() -> None:
    assert precision_fault("fp32", {"Float": 3, "UInt8": 1, "Int32": 1}) is None
    assert precision_fault("fp16", {"Half": 3, "Float": 2}) is None
    assert precision_fault("int8", {"Int8": 1, "Float": 9}) is None
    assert precision_fault("int8", {"Int8": 1, "Half": 9}) is None
    assert "Int8" in str(precision_fault("int8", {"UInt8": 1, "Float": 9}))
    assert "Half" in str(precision_fault("fp16", {"Float": 9}))
    assert "Int8" in str(precision_fault("fp32", {"Float": 9, "Int8": 1}))
    assert "did not report" in str(precision_fault("fp32", {}))


def test_description() -> None:
    assert describe({"Int8": 4, "Float": 5, "Bool": 4}) == "layers: 5 Float, 4 Bool, 4 Int8"
    assert describe({}) == "layers: unknown"
