"""Whether an engine fits its manifest, the installed TensorRT, the GPU and the images.

Every misfit is one line that ends with the command which rebuilds the engine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dabnet.errors import ArtifactError, InputError
from dabnet.runtime.cuda import DeviceMemory, HostArray
from dabnet.runtime.manifest import Manifest, read_engine_manifest
from dabnet.runtime.plan import types_of
from dabnet.runtime.runner import check_input
from dabnet.runtime.trt.foreign import engine_profile, engine_tensors
from dabnet.runtime.trt.layers import describe, plan_of_engine, precision_fault
from dabnet.runtime.trt.product import TENSORRT, Product

_AMPERE = (8, 0)  # minimum compute capability of HardwareCompatibilityLevel.AMPERE_PLUS


class EngineCheck:
    """The checks of one engine file.

    Args:
        manifest: of an engine that has none beside it; it claims no precision.
        trust: whether the engine may be another file than its manifest was written for.

    Attributes:
        shape: of the declared input; -1 for a side that each call chooses.
        best_shape, largest_shape: of the input it was made for, and that gets memory.

    Raises:
        ArtifactError: there is no manifest, it is damaged, or no runner serves its tensors.
    """

    def __init__(self, path: Path, manifest: Manifest | None = None, trust: bool = False) -> None:
        self.path, self._is_given = path, manifest is not None
        if manifest is None or manifest.engine is None:
            self.manifest, self.info = read_engine_manifest(path, trust)
        else:
            self.manifest, self.info = manifest, manifest.engine
        self.shape = self.manifest.served_shape(repr(str(path)))
        _, self.best_shape, self.largest_shape = self.info.profile or (self.shape,) * 3
        product = self.info.product.replace("_", "-")  # as the command spells it
        self._rebuild = f"dabnet-export trt MODEL.onnx --output {path}"
        self._rebuild += f" --product {product}" if product != TENSORRT else ""

    def version(self, product: Product) -> None:
        """Raise unless this version built the engine, or is later and the engine allows that.

        https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/ and
        https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/, both on the
        page engine-compatibility.html.
        """
        later = "version" in self.info.compatibility
        fits = later and _numbers(product.version) > _numbers(self.info.version)
        if product.version != self.info.version and not fits:
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
        wanted = "{}.{} ({})".format(*here, memory.name)
        built = self.info.compute_capability
        if "hardware" in self.info.compatibility:
            if here < _AMPERE:
                raise self.mismatch("built for compute capability 8.0 and later", wanted)
        elif built and built != "{}.{}".format(*here):
            raise self.mismatch(f"built for compute capability {built} ({self.info.gpu})", wanted)

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
        suboptimal = validity == trt.EngineValidity.SUBOPTIMAL
        return [f"suboptimal on this GPU: {text}"] if suboptimal else []

    def bindings(self, trt: Any, engine: Any) -> None:
        """Raise unless the engine's own tensors, and their range of shapes, are the manifest's."""
        inputs, outputs = engine_tensors(trt, engine)
        fix, source = f"rebuild it with: {self._rebuild}", repr(str(self.path))
        self.manifest.require_tensors(inputs, outputs, source, fix)
        if self.manifest.is_dynamic:
            served = engine_profile(engine, self.manifest.input)
            if served != self.info.profile:
                raise self.mismatch(f"for the shapes {served}", f"{self.info.profile}")

    def layers(self, trt: Any, engine: Any) -> str:
        """Raise unless the engine computes in its precision; return its layers in words."""
        layers = types_of(plan_of_engine(trt, engine)) or self.info.layers_by_type
        if self._is_given:
            return describe(layers)
        if fault := precision_fault(self.manifest.precision, layers):
            raise self.mismatch(f"not {self.manifest.precision}: {fault}", "what it says it is")
        return describe(layers)

    def input(self, images: HostArray) -> HostArray:
        """Return ``images`` C-contiguous; raise InputError unless the engine takes them."""
        images = check_input(images, self.manifest)
        if self.info.profile:
            smallest, _, largest = self.info.profile
            ranges = zip(smallest, images.shape, largest, strict=True)
            if not all(low <= side <= high for low, side, high in ranges):
                raise InputError(
                    f"images of shape {images.shape}",
                    f"between {smallest} and {largest}, for which {str(self.path)!r} was built",
                    f"resize them, or build the engine for other shapes with: {self._rebuild}",
                )
        return images

    def mismatch(self, given: str, expected: str) -> ArtifactError:
        fix = f"rebuild it with: {self._rebuild}"
        return ArtifactError(f"{str(self.path)!r} is {given}", expected, fix)


def _numbers(version: str) -> tuple[int, ...]:
    """``10.16.1.11rc1`` → (10, 16, 1, 11)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("rc")[0]))
