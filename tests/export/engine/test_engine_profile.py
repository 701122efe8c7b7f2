"""Input shapes of engines with dynamic sides: what is given, what follows, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dabnet.errors import InputError
from dabnet.runtime.manifest import TensorInfo
from export.engine.spec import BuildSpec, Shape, profile_of

File = tuple[TensorInfo, Shape]
"""The input of an ONNX file, and the shape it was exported at."""


def file_of(sides: Shape, example: Shape) -> File:
    return TensorInfo("image", "uint8", (*sides, 3)), example


ALL = file_of((-1, -1, -1), (1, 512, 1024))
BATCH = file_of((-1, 360, 480), (4, 360, 480))
STATIC = file_of((1, 32, 64), (1, 32, 64))


@pytest.mark.parametrize(
    ("file", "options", "expected"),
    [
        (ALL, {}, ((1, 256, 512), (1, 512, 1024), (2, 1024, 2048))),
        (BATCH, {}, ((1, 360, 480), (4, 360, 480), (8, 360, 480))),
        (ALL, {"opt_shape": (2, 360, 480)}, ((1, 176, 240), (2, 360, 480), (4, 720, 960))),
        (BATCH, {"max_shape": (5, 360, 480)}, ((1, 360, 480), (4, 360, 480), (5, 360, 480))),
        (ALL, {"min_shape": (1, 512, 1024)}, ((1, 512, 1024), (1, 512, 1024), (2, 1024, 2048))),
    ],
)
def test_what_follows_from_the_file(
    file: File, options: dict[str, Shape], expected: tuple[Shape, ...]
) -> None:
    profile = profile_of(*file, 8, BuildSpec("fp32", **options))
    assert profile == tuple((*shape, 3) for shape in expected)


def test_float_input_has_its_channels_elsewhere() -> None:
    tensor = TensorInfo("image", "float32", (-1, 3, 64, -1))
    profile = profile_of(tensor, (1, 64, 96), 8, BuildSpec("fp32", max_shape=(4, 64, 96)))
    assert profile == ((1, 3, 64, 48), (1, 3, 64, 96), (4, 3, 64, 96))
    with pytest.raises(InputError, match=r"--opt-shape 1x72x96; expected \?x64x\?"):
        profile_of(tensor, (1, 64, 96), 8, BuildSpec("fp32", opt_shape=(1, 72, 96)))


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        (STATIC, {"max_shape": (2, 32, 64)}, "--max-shape for .* fixed shape 1x32x64"),
        (BATCH, {"max_shape": (8, 360, 488)}, r"--max-shape 8x360x488; expected \?x360x480"),
        (ALL, {"max_shape": (1, 256, 512)}, "over 1x512x1024 .best. to 1x256x512"),
        (ALL, {"min_shape": (1, 100, 96)}, "--min-shape 1x100x96; expected .* multiples of 8"),
        (ALL, {"min_shape": (2, 8, 8)}, "from 2x8x8 over 1x512x1024"),
    ],
)
def test_shapes_that_do_not_fit(file: File, options: dict[str, Shape], message: str) -> None:
    with pytest.raises(InputError, match=message):
        profile_of(*file, 8, BuildSpec("fp32", **options))


sides = st.tuples(
    st.integers(1, 16), *(st.integers(1, 200).map(lambda side: 8 * side) for _ in range(2))
)


@given(best=sides, dynamic=st.sets(st.integers(0, 2), min_size=1))
def test_a_profile_of_any_file_is_in_order(best: Shape, dynamic: set[int]) -> None:
    shape = tuple(-1 if place in dynamic else side for place, side in enumerate(best))
    smallest, middle, largest = profile_of(*file_of(shape, best), 8, BuildSpec("fp32"))
    assert middle == (*best, 3)
    for place, (least, side, most) in enumerate(zip(smallest, middle, largest, strict=True)):
        assert least <= side <= most
        assert (most > side) is (place in dynamic)
        assert place not in (1, 2) or (least % 8 == 0 and most % 8 == 0 and least >= 8)
