"""Summary of the plan of an engine: kernels, traffic, fusion, and a modelled time per card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import onnx_ir as ir

from dabnet.errors import ArtifactError
from dabnet.graph.facts import inferred, is_conv, layers_of, node_name
from dabnet.graph.roofline import Kernel
from dabnet.precision import FP16, FP32, INT8, PRECISIONS
from dabnet.runtime.onnx_check import check_onnx_file
from dabnet.runtime.plan import Plan, PlanKernel
from dabnet.runtime.trt.product import find_product
from export.cards import CARDS
from export.engine.builder import run_builder
from export.engine.limits import refuse_early
from export.engine.progress import no_phases
from export.engine.spec import BuildSpec, Job, profile_of
from export.onnx_file import load_onnx

_NAMES = {precision.tensorrt: precision.name for precision in PRECISIONS.values()}


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """Figures of a plan.

    Attributes:
        product, target: what built it, and for which GPU.
        kernels: how many are launched for one call.
        activation_bytes, constant_bytes: that they read and write.
        convolutions: how many by the types that they read and write, such as ``Int8→Half``.
        fused, alone: nodes of the ONNX graph by operator, in a kernel with a convolution and in one
            without. A node that TensorRT splits is counted in each of its kernels.
        modelled_ms: by card: a model from data sheets, not a measurement. A card without fast FP16
            has none for a plan in half precision.
        faults: what was asked for and is not so, a line each.
        plan: every kernel.
    """

    product: str
    target: str
    kernels: int
    activation_bytes: int
    constant_bytes: int
    convolutions: dict[str, int]
    fused: dict[str, int]
    alone: dict[str, int]
    modelled_ms: dict[str, float]
    faults: tuple[str, ...]
    plan: Plan


def plan_of_onnx(path: Path, target: str) -> PlanSummary:
    """Build an ONNX file of ours for a target, without a GPU, and describe the plan.

    Raises:
        DabnetError: TensorRT-RTX is missing, refuses the file or lacks the target.
    """
    manifest = check_onnx_file(path).manifest()
    model = load_onnx(path)
    spec = BuildSpec(manifest.precision, target=target)
    product = find_product(spec.wanted_product)
    refuse_early(spec, product)
    profile = profile_of(manifest.input, manifest.example, manifest.stride, spec)
    operators = {node_name(node): node.op_type for node in model.graph}
    asked = convolutions_of(model)
    facts = (path, manifest, "", operators, asked, spec, product, profile, None)
    built = run_builder(Job(*facts, lambda _: None, no_phases))
    return summary(built.kernels, str(product), target, asked)


def convolutions_of(model: ir.Model) -> dict[str, int]:
    """Number of convolutions of an ONNX graph by the precision in which they compute."""
    layers = layers_of(inferred(model).graph).items()
    return dict(Counter(layer.precision for node, layer in layers if is_conv(node)))


def summary(
    plan: Plan, product: str, target: str, asked: Mapping[str, int] = MappingProxyType({})
) -> PlanSummary:
    """Add a plan up.

    Args:
        plan: of an engine for one size.
        product, target: for people.
        asked: ``convolutions_of`` the ONNX graph.

    Raises:
        ArtifactError: the plan has no kernels.
    """
    if not plan:
        raise ArtifactError(
            f"an engine of {product} without a layer report",
            "one whose manifest holds its plan",
            "build it again with this version of dabnet-export",
        )
    convolutions = [kernel for kernel in plan if kernel.is_convolution]
    types = Counter(
        f"{kernel.arithmetic}→{'+'.join(sorted({tensor.type for tensor in kernel.writes}))}"
        for kernel in convolutions
    )
    fused, alone = Counter[str](), Counter[str]()
    for kernel in plan:
        (fused if kernel.is_convolution else alone).update(kernel.operators)
    half = any(kernel.arithmetic == "Half" for kernel in plan)
    cards = [card for card in CARDS.values() if not (half and card.rest == FP32)]
    return PlanSummary(
        product,
        target,
        len(plan),
        sum(kernel.activation_bytes for kernel in plan),
        sum(kernel.constant_bytes for kernel in plan),
        dict(types.most_common()),
        dict(sorted(fused.items())),
        dict(sorted(alone.items())),
        {card.name: 1e3 * card.seconds(map(_work, plan)) for card in cards},
        tuple(_faults(plan, alone, fused, asked)),
        plan,
    )


def _work(kernel: PlanKernel) -> Kernel:
    precision = _NAMES.get(kernel.arithmetic, "fp32")
    moved = kernel.activation_bytes + kernel.constant_bytes
    return Kernel(kernel.name, precision, kernel.multiply_adds, moved)


def _faults(
    plan: Plan, alone: Counter[str], fused: Counter[str], asked: Mapping[str, int]
) -> Iterator[str]:
    for name in (INT8, FP16):
        wanted = asked.get(name, 0)
        kind = PRECISIONS[name].tensorrt
        found = sum(kernel.is_convolution and kernel.arithmetic == kind for kernel in plan)
        if found < wanted:
            yield f"{wanted - found} of {wanted} {name} convolutions do not compute in {name}"
    if many := alone["PRelu"]:
        yield f"{many} of {many + fused['PRelu']} PReLUs stand in a kernel without a convolution"
    if many := sum(kernel.operators.keys() == {"Mul", "Max"} for kernel in plan):
        yield f"{many} activations (Mul, Max) are a kernel of their own"
    tensors = {tensor for kernel in plan for tensor in (*kernel.reads, *kernel.writes)}
    if many := sum(tensor.shape is None for tensor in tensors):
        yield f"the size of {many} of {len(tensors)} tensors is chosen by a call, and not counted"
