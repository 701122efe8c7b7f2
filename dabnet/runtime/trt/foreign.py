"""An engine that carries no manifest: what it says of itself on a GPU that loads it.

API: ``Runtime.deserialize_cuda_engine``, ``ICudaEngine`` and its inspector.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dabnet.device import Device
from dabnet.errors import ArtifactError, InputError, MissingPackage
from dabnet.files import sha256_of_file
from dabnet.precision import PRECISIONS
from dabnet.runtime.cuda import open_device_memory
from dabnet.runtime.description import Description, lowest_precision
from dabnet.runtime.manifest import (
    DYNAMIC,
    UNKNOWN,
    EngineInfo,
    Manifest,
    Profile,
    TensorInfo,
)
from dabnet.runtime.plan import Plan, types_of
from dabnet.runtime.trt.layers import plan_of_engine
from dabnet.runtime.trt.product import PRODUCTS, Product, create, find_product, logger_of

_NUMPY_NAMES = {"float": "float32", "half": "float16"}  # of TensorRT's DataType, where they differ


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says of itself. ``kernels`` are () if it was built without their details."""

    product: Product  # that loads it
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    profile: Profile  # of its input; () without sides that a call chooses
    kernels: Plan

    @property
    def precision(self) -> str:
        """The lowest type of its convolutions; ``unknown`` where they are not listed."""
        kinds = {kernel.arithmetic for kernel in self.kernels if kernel.is_convolution}
        return lowest_precision(p.name for p in PRECISIONS.values() if p.tensorrt in kinds)


def read_engine(path: Path, device: str = "cuda", products: Sequence[Product] = ()) -> EngineFacts:
    """Load an engine with the first of ``products``, by default all that are installed.

    Raises:
        InputError: ``device`` is no GPU.
        BackendUnavailable: TensorRT, the driver or the GPU is missing.
        ArtifactError: none of them loads it on this GPU.
    """
    chosen, refused = Device.parse(device), []
    if not chosen.is_gpu:
        fix = "on a CPU run the ONNX file that it was built from"
        raise InputError(f"device {device!r} for the engine {str(path)!r}", "cuda", fix)
    plan, products = path.read_bytes(), products or _installed()
    with closing(open_device_memory(chosen.index)) as memory, memory.active():
        for product in products:
            with logger_of(product).collect() as messages:
                facts = _read(product, plan)
            if facts is not None:
                return facts
            refused.append(f"{product} refuses it: {messages.first_error()}")
    given = f"{str(path)!r} does not load on {memory.name} ({'; '.join(refused)})"
    expected = "an engine that this version of TensorRT built for this GPU"
    raise ArtifactError(given, expected, "build it again on this machine")


def described_engine(path: Path, description: Description, device: str = "cuda") -> Manifest:
    """The manifest of an engine that carries none; raises as ``read_engine`` and ``Description``.

    The size of its example is that at which its profile is best.
    """
    facts = read_engine(path, device)
    if facts.profile and description.size is None:
        _, height, width = replace(facts.inputs[0], shape=facts.profile[1]).sides
        description = replace(description, size=(height, width))
    product, kernels = facts.product, facts.kernels
    return description.manifest(
        repr(str(path)),
        facts.inputs,
        facts.outputs,
        facts.precision,
        engine=EngineInfo(
            product.name,
            product.version,
            target=UNKNOWN,
            layers_by_type=types_of(kernels),
            activation_bytes=sum(kernel.activation_bytes for kernel in kernels),
            constant_bytes=sum(kernel.constant_bytes for kernel in kernels),
            plan=kernels,
            profile=facts.profile,
            sha256=sha256_of_file(path),
        ),
        libraries={product.name: product.version},
    )


def engine_tensors(trt: Any, engine: Any) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """The inputs and the outputs of a loaded engine."""
    tensors: dict[bool, list[TensorInfo]] = {True: [], False: []}
    for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
        kind = str(engine.get_tensor_dtype(name).name).lower()
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        shape = _sides(engine.get_tensor_shape(name))
        tensors[is_input].append(TensorInfo(name, _NUMPY_NAMES.get(kind, kind), shape))
    return tensors[True], tensors[False]


def engine_profile(engine: Any, tensor: TensorInfo) -> Profile:
    """Smallest, best and largest shape of an input; () if no call chooses one."""
    if DYNAMIC not in tensor.shape:
        return ()
    smallest, best, largest = map(_sides, engine.get_tensor_profile_shape(tensor.name, 0))
    return smallest, best, largest


def _read(product: Product, plan: bytes) -> EngineFacts | None:
    """None where it is refused. Engine and runtime are gone before the GPU is given back."""
    runtime = create(product, "Runtime")
    engine = runtime.deserialize_cuda_engine(plan)
    return None if engine is None else _facts(product, engine)


def _facts(product: Product, engine: Any) -> EngineFacts:
    inputs, outputs = engine_tensors(product.module, engine)
    profile = engine_profile(engine, inputs[0]) if inputs else ()
    kernels = plan_of_engine(product.module, engine)
    return EngineFacts(product, tuple(inputs), tuple(outputs), profile, kernels)


def _installed() -> list[Product]:
    found = []
    for name in PRODUCTS:
        with suppress(MissingPackage):
            found.append(find_product(name))
    return found or [find_product()]


def _sides(shape: Any) -> tuple[int, ...]:
    return tuple(int(side) for side in shape)
