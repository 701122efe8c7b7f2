"""Whether an engine fits its manifest, the installed TensorRT, the GPU and the images.

Every misfit is one line that ends with the command which rebuilds the engine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dabnet.errors import ArtifactError, InputError
from dabnet.runtime.cuda import DeviceMemory, HostArray
from dabnet.runtime.manifest import EngineInfo, read_engine_manifest
from dabnet.runtime.runner import check_input, declared_shape
from dabnet.runtime.trt.layers import describe, layers_of_engine, precision_fault
from dabnet.runtime.trt.product import TENSORRT, Product

# What TensorRT's DataType calls the types that differ from numpy's names.
NUMPY_NAMES = {"float": "float32", "half": "float16"}

# The least compute capability of HardwareCompatibilityLevel.AMPERE_PLUS.
AMPERE = (8, 0)


class EngineCheck:
    """The checks of one engine file.

    Attributes:
        path: of the engine.
        manifest, info: what lies beside it.
        shape: of the declared input; -1 for a side that each call chooses.

    Raises:
        ArtifactError: there is no manifest, it is damaged, or it declares tensors that no runner
            serves.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest, self.info = read_engine_manifest(path)
        self.shape = declared_shape(self.manifest, repr(str(path)))

    @property
    def largest_shape(self) -> tuple[int, ...]:
        """Shape of the largest input, for which memory is allocated."""
        return self.info.profile[-1] if self.info.profile else self.shape

    @property
    def best_shape(self) -> tuple[int, ...]:
        """Shape of the input that the engine was made for."""
        return self.info.profile[1] if self.info.profile else self.shape

    def version(self, product: Product) -> None:
        """Raise unless this version runs the engine: the one that built it, or a later one.

        The later one only where the engine was built version-compatible. Source:
        https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/ and
        https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/, both on the
        page engine-compatibility.html.
        """
        if product.version == self.info.version:
            return
        later = "version" in self.info.compatibility
        if later and _numbers(product.version) > _numbers(self.info.version):
            return
        raise self.mismatch(
            f"built by {product.name} {self.info.version}",
            f"{product.version}, which is installed{', or an earlier one' if later else ''}",
        )

    def card(self, memory: DeviceMemory) -> None:
        """Raise unless an engine that was built on a GPU fits this one.

        By default it runs on the same compute capability; built ``ampere-plus``, on 8.0 and later.
        An engine built ahead of time names no GPU; TensorRT-RTX is asked (``validity``).
        """
        here = memory.compute_capability
        built = self.info.compute_capability
        if "hardware" in self.info.compatibility:
            if here < AMPERE:
                raise self.mismatch(
                    "built for compute capability 8.0 and later",
                    f"{here[0]}.{here[1]} ({memory.name})",
                )
        elif built and built != f"{here[0]}.{here[1]}":
            raise self.mismatch(
                f"built for compute capability {built} ({self.info.gpu})",
                f"{here[0]}.{here[1]} ({memory.name})",
            )

    def validity(self, trt: Any, runtime: Any, plan: bytes) -> list[str]:
        """Ask TensorRT-RTX whether the engine runs here; return what the reader must know.

        Source: ``Runtime.get_engine_validity`` → (EngineValidity, bits of the diagnostics).
        """
        if not hasattr(runtime, "get_engine_validity"):
            return []
        validity, bits = runtime.get_engine_validity(plan)
        kinds = trt.EngineInvalidityDiagnostics
        names = [name for name in dir(kinds) if name.isupper()]
        reasons = [name for name in names if int(bits) & int(getattr(kinds, name))]
        text = ", ".join(reasons) or "no reason given"
        if validity == trt.EngineValidity.INVALID:
            raise self.mismatch(f"invalid on this machine: {text}", "one that fits this GPU")
        if validity == trt.EngineValidity.SUBOPTIMAL:
            return [f"suboptimal on this GPU: {text}"]
        return []

    def bindings(self, trt: Any, engine: Any) -> None:
        """Raise unless the engine's own tensors are the manifest's.

        These are names, types, directions, shapes, and the range of those that are dynamic.
        """
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = set()
        for name in names:
            kind = str(engine.get_tensor_dtype(name).name).lower()
            shape = _sides(engine.get_tensor_shape(name))
            found.add((name, NUMPY_NAMES.get(kind, kind), shape))
        declared = (self.manifest.input, self.manifest.output)
        wanted = {(tensor.name, tensor.dtype, tensor.shape) for tensor in declared}
        inputs = {n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT}
        if found != wanted or inputs != {self.manifest.input.name}:
            raise self.mismatch(f"of tensors {sorted(found)}", f"{sorted(wanted)}")
        if self.manifest.is_dynamic:
            profile = engine.get_tensor_profile_shape(self.manifest.input.name, 0)
            if (served := tuple(_sides(shape) for shape in profile)) != self.info.profile:
                raise self.mismatch(f"for the shapes {served}", f"{self.info.profile}")

    def layers(self, trt: Any, engine: Any) -> str:
        """Raise unless the engine computes in its precision; return its layers in words."""
        layers = layers_of_engine(trt, engine) or self.info.layers_by_type
        if fault := precision_fault(self.manifest.precision, layers):
            raise self.mismatch(f"not {self.manifest.precision}: {fault}", "what it says it is")
        return describe(layers)

    def input(self, images: HostArray) -> HostArray:
        """Return ``images`` C-contiguous if the engine takes them; raise InputError otherwise."""
        images = check_input(images, self.manifest)
        if self.info.profile:
            smallest, _, largest = self.info.profile
            ranges = zip(smallest, images.shape, largest, strict=True)
            if not all(least <= side <= most for least, side, most in ranges):
                raise InputError(
                    f"images of shape {images.shape}",
                    f"between {smallest} and {largest}, for which {str(self.path)!r} was built",
                    "resize the images, or build the engine for other shapes with: "
                    + rebuild_command(self.path, self.info),
                )
        return images

    def mismatch(self, given: str, expected: str) -> ArtifactError:
        """The error that ends with the command which rebuilds the engine."""
        return ArtifactError(
            f"{str(self.path)!r} is {given}",
            expected,
            f"rebuild it with: {rebuild_command(self.path, self.info)}",
        )


def rebuild_command(engine_path: Path, engine: EngineInfo) -> str:
    """The command that builds an engine like this one for the machine that it is typed on."""
    command = f"dabnet-export trt MODEL.onnx --output {engine_path}"
    product = engine.product.replace("_", "-")  # as the command spells it
    return command if product == TENSORRT else f"{command} --product {product}"


def _numbers(version: str) -> tuple[int, ...]:
    """``10.16.1.11`` → (10, 16, 1, 11); what follows the numbers, such as ``rc1``, is left out."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("rc")[0]))


def _sides(shape: Any) -> tuple[int, ...]:
    return tuple(int(side) for side in shape)
