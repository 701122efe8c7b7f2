"""The request for an artifact: its options, their limits, and what excludes what."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from calibration.placements import PLACEMENTS
from dabnet.errors import InputError
from dabnet.precision import EXPORTED
from export.cards import CARDS
from export.passes.targets import TARGETS
from export.spec import ExportSpec, options_of

SIZE = (64, 96)


@pytest.mark.parametrize(
    ("field", "names", "default"),
    [
        ("placement", PLACEMENTS, None),
        ("card", CARDS, "rtx-3090"),
        ("optimize_for", TARGETS, TARGETS[0]),
        ("precision", EXPORTED, EXPORTED[0]),
    ],
)
def test_choices_are_those_of_the_code_that_they_choose(
    field: str, names: Any, default: str | None
) -> None:
    """The request is read without onnx, and so cannot ask the modules that hold them."""
    option, found = options_of(ExportSpec)[field]
    assert option.choices == tuple(names)
    assert found == default


def test_every_field_is_an_option_but_the_size_of_the_check() -> None:
    assert {f.name for f in fields(ExportSpec)} - options_of(ExportSpec).keys() == {"check_images"}
    names = [option.name for option, _ in options_of(ExportSpec).values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"precision": "fp16", "optimize_for": "ort-cpu"}, "computes in FP32 all the same"),
        ({"precision": "int8", "input": "float"}, "expected uint8 input"),
        ({"optimize_for": "gpu"}, "--optimize-for 'gpu'; expected one of portable, ort-cpu"),
        ({"precision": "bf16"}, "--precision 'bf16'; expected one of fp32, fp16, int8"),
        ({"head": "argmax"}, "--head 'argmax'; expected one of mask, logits"),
        ({"batch": 0}, "--batch 0; expected at least 1"),
        ({"calibration_images": -1}, "--calibration-images -1; expected at least 1"),
        ({"minimum_agreement": 1.5}, "--min-agreement 1.5; expected at most 1"),
        ({"minimum_agreement": float("nan")}, "--min-agreement nan; expected at"),
        ({"precision": "int8", "max_drop": float("nan")}, "--max-drop nan; expected at least 0"),
        ({"precision": "int8", "max_drop": -0.1}, "--max-drop -0.1; expected at least 0"),
        ({"precision": "int8", "max_disagreement": 101}, "101; expected at most 100"),
        ({"precision": "int8", "max_drop": 1, "head": "logits"}, "budget with --head logits"),
        ({"precision": "int8", "rest": "fp16", "mask_dtype": "int32"}, "with an int32 mask"),
        ({"precision": "int8", "calibration_method": "best"}, "calibration method 'best'"),
        ({"precision": "int8", "card": "h200"}, "--card without an accuracy budget"),
        ({"budget_images": 8}, "--budget-images without an accuracy budget"),
        ({"calibration_method": "best"}, "--calibration-method with --precision fp32"),
        ({"without_passes": ("magic",)}, "unknown graph pass 'magic'"),
    ],
)
def test_impossible_requests(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExportSpec(SIZE, **spec)


@pytest.mark.parametrize(
    "asked",
    [
        {"placement": "all"},
        {"rest": "fp16"},
        {"float_layers": ("init_conv.0",)},
        {"fit_weights": True},
        {"calibration_file": Path("c.json")},
        {"calibration_method": "mse"},
        {"max_drop": 0.5},
        {"max_disagreement": 1.0},
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_only_int8_heeds_is_refused_elsewhere(asked: dict[str, Any], precision: str) -> None:
    (name,) = asked
    option, _ = options_of(ExportSpec)[name]
    with pytest.raises(InputError, match=f"{option.name} with --precision {precision}; expected"):
        ExportSpec(SIZE, precision, **asked)
    assert getattr(ExportSpec(SIZE, "int8", **asked), name) == asked[name]


def test_the_agreement_that_is_required() -> None:
    assert [ExportSpec(SIZE, name).required_agreement for name in EXPORTED] == [0.9999, 0.999, 0.95]
    assert replace(ExportSpec(SIZE), minimum_agreement=0.0).required_agreement == 0.0
