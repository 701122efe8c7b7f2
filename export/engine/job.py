"""Everything that one run of the builder needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dabnet.data.images import SizedImages
from dabnet.runtime.manifest import Manifest, Profile
from dabnet.runtime.trt.product import Product
from export.engine.progress import OpenPhases
from export.engine.spec import BuildSpec

Tell = Callable[[str], None]
ImagesOfSize = Callable[[tuple[int, int]], SizedImages]
"""(height, width) → training images of that size, for an INT8 calibrator."""


@dataclass(frozen=True, slots=True)
class Job:
    """A build that is to be run.

    Attributes:
        onnx_path, manifest, graph_sha256: the ONNX file, the manifest inside it, its graph's hash.
        spec, product, profile: what to build, with which TensorRT, for which input shapes.
        images: for a calibrator; None where its cache must do.
        tell, phases: where progress goes: in words, and as phases of the builder.
    """

    onnx_path: Path
    manifest: Manifest
    graph_sha256: str
    spec: BuildSpec
    product: Product
    profile: Profile
    images: ImagesOfSize | None
    tell: Tell
    phases: OpenPhases
