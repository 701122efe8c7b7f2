"""The range of input shapes that an engine with dynamic sides serves.

API: ``IOptimizationProfile``. TensorRT picks kernels that are fastest at the best shape and right
for every shape between the smallest and the largest.
"""

from __future__ import annotations

from dabnet.errors import InputError
from dabnet.runtime.manifest import DYNAMIC, Profile, TensorInfo
from export.engine.spec import BuildSpec, Shape


def profile_of(tensor: TensorInfo, example: Shape, stride: int, spec: BuildSpec) -> Profile:
    """Return the profile to build: what ``spec`` gives, and what follows from it.

    The best shape is by default ``example``. By default the batch goes from 1 to twice the best
    one, height and width from half to twice.

    Args:
        tensor: the input: uint8 (N, H, W, 3) or float (N, 3, H, W), a dynamic side -1.
        example: (batch, height, width) at which the ONNX file was exported and checked.
        stride: height and width are multiples of it.
        spec: shapes that were asked for.

    Raises:
        InputError: a shape was given for a file without dynamic sides, differs from the file in a
            fixed side, is no multiple of the stride, or the shapes are not in order.
    """
    if DYNAMIC not in tensor.shape:
        if spec.shapes:
            raise InputError(
                f"{' and '.join(spec.shapes)} for an ONNX file of the fixed shape {_text(example)}",
                "one with dynamic sides",
                "leave the option out, or export the ONNX file with dynamic sides",
            )
        return ()
    best = spec.opt_shape or example
    halves = (max(stride, side // 2 // stride * stride) for side in best[1:])
    smallest = spec.min_shape or _where_dynamic(tensor, (1, *halves))
    largest = spec.max_shape or _where_dynamic(tensor, tuple(2 * side for side in best))
    for name, shape in spec.shapes.items():
        if _where_dynamic(tensor, shape) != shape:
            raise InputError(
                f"{name} {_text(shape)}",
                f"{_text(tensor.sides)}, the ONNX file's shape, with numbers for its ?",
                "export the ONNX file with more dynamic sides to change the others",
            )
        if any(side % stride for side in shape[1:]):
            expected = f"a height and width that are multiples of {stride}"
            raise InputError(f"{name} {_text(shape)}", expected)
    ordered = zip(smallest, best, largest, strict=True)
    if not all(least <= middle <= most for least, middle, most in ordered):
        raise InputError(
            f"input shapes from {_text(smallest)} over {_text(best)} (best) to {_text(largest)}",
            "no side of one above the same side of the next",
            "pass --min-shape, --opt-shape and --max-shape together",
        )
    return (_laid_out(tensor, smallest), _laid_out(tensor, best), _laid_out(tensor, largest))


def _text(shape: tuple[int, ...]) -> str:
    """``(1, 512, 1024)`` → ``1x512x1024``; a dynamic side is ``?``."""
    return "x".join("?" if side == DYNAMIC else str(side) for side in shape)


def _laid_out(tensor: TensorInfo, shape: Shape) -> tuple[int, ...]:
    """(batch, height, width) → a shape in the tensor's layout."""
    if tensor.dtype == "uint8":
        return (*shape, tensor.shape[3])
    return (shape[0], tensor.shape[1], *shape[1:])


def _where_dynamic(tensor: TensorInfo, shape: tuple[int, ...]) -> Shape:
    """``shape`` where the file's side is dynamic, the file's own side elsewhere."""
    sides = zip(tensor.sides, shape, strict=True)
    batch, height, width = (wanted if side == DYNAMIC else side for side, wanted in sides)
    return batch, height, width
