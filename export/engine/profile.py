"""The range of input shapes that an engine with dynamic sides serves.

API: ``IOptimizationProfile``. TensorRT picks kernels that are fastest at the best shape and right
for every shape between the smallest and the largest.
"""

from __future__ import annotations

from dabnet.errors import InputError
from dabnet.models import STRIDE
from dabnet.runtime.manifest import DYNAMIC, TensorInfo
from export.engine.spec import BuildSpec, Profile, Shape


def profile_of(tensor: TensorInfo, example: Shape, spec: BuildSpec) -> Profile:
    """Return the profile to build: what ``spec`` gives, and what follows from it.

    The best shape is by default the one that the ONNX file was exported and checked at. By default
    the batch goes from 1 to twice the best one, height and width from half to twice.

    Args:
        tensor: the input: uint8 (N, H, W, 3) or float (N, 3, H, W), a dynamic side -1.
        example: the shape at which the ONNX file was exported and checked.
        spec: shapes that were asked for.

    Raises:
        InputError: a shape was given for a file without dynamic sides, differs from the file in a
            fixed side, or the shapes are not in order.
    """
    if DYNAMIC not in tensor.shape:
        if spec.shapes:
            raise InputError(
                f"{' and '.join(spec.shapes)} for an ONNX file of the fixed shape "
                f"{shape_text(example)}",
                "one with dynamic sides",
                "leave the option out, or export the ONNX file with dynamic sides",
            )
        return ()
    sides = tensor.sides
    best = spec.opt_shape or example
    smallest = spec.min_shape or _where_dynamic(sides, (1, _half(best[1]), _half(best[2])))
    largest = spec.max_shape or _where_dynamic(sides, (2 * best[0], 2 * best[1], 2 * best[2]))
    for name, shape in spec.shapes.items():
        if _where_dynamic(sides, shape) != shape:
            raise InputError(
                f"{name} {shape_text(shape)}",
                f"{shape_text(sides)}, the ONNX file's shape, with numbers for its ?",
                "export the ONNX file with more dynamic sides to change the others",
            )
    ordered = zip(smallest, best, largest, strict=True)
    if not all(least <= middle <= most for least, middle, most in ordered):
        raise InputError(
            f"input shapes from {shape_text(smallest)} over {shape_text(best)} (best) "
            f"to {shape_text(largest)}",
            "no side of one above the same side of the next",
            "pass --min-shape, --opt-shape and --max-shape together",
        )
    return tuple(_of_tensor(tensor, shape) for shape in (smallest, best, largest))


def shape_text(shape: tuple[int, ...]) -> str:
    """``(1, 512, 1024)`` → ``1x512x1024``; a dynamic side is ``?``."""
    return "x".join("?" if side == DYNAMIC else str(side) for side in shape)


def _of_tensor(tensor: TensorInfo, shape: Shape) -> tuple[int, ...]:
    """(batch, height, width) → a shape in the tensor's layout."""
    if tensor.dtype == "uint8":
        return (*shape, tensor.shape[3])
    return (shape[0], tensor.shape[1], *shape[1:])


def _where_dynamic(sides: Shape, shape: Shape) -> Shape:
    """``shape`` where the file's side is dynamic, the file's own side elsewhere."""
    batch, height, width = (
        wanted if side == DYNAMIC else side for side, wanted in zip(sides, shape, strict=True)
    )
    return batch, height, width


def _half(side: int) -> int:
    """Half of a side in pixels, down to a multiple of the network's stride."""
    return max(STRIDE, side // 2 // STRIDE * STRIDE)
