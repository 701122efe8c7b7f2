"""The workshop: exports and builds what the backends run, and keeps it in a cache folder.

The name of a file holds a hash of everything its content depends on; a damaged file is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.record import Setting
from dabnet import __version__
from dabnet.artifact import Artifact
from dabnet.console import ProgressBar
from dabnet.device import Device
from dabnet.errors import ArtifactError, InputError
from dabnet.files import sha256_of_file
from dabnet.given import Given
from dabnet.lock import file_held
from dabnet.runtime.cuda import open_device_memory
from dabnet.runtime.manifest import Manifest, engine_manifest_path

if TYPE_CHECKING:
    from dabnet.checkpoint import Checkpoint
    from dabnet.runtime.trt.product import Product
    from export.spec import ExportSpec


@dataclass(frozen=True)
class Workshop:
    """What there is to measure, and the means to prepare it."""

    checkpoint_path: Path
    given: Given  # what the checkpoint does not say
    data_dir: Path | None  # folder of the data set; None for one that is drawn
    # Calibration and checks of every export; size, batch, precision and target are replaced.
    spec: ExportSpec
    cache: Path
    device: Device  # for backends that have several
    threads: int  # CPU threads of each backend, so that none has more than the others
    progress: ProgressBar

    def threads_of(self, setting: Setting) -> int:
        """CPU threads of one runner: its part if several run at a time."""
        return max(1, self.threads // setting.streams)

    def onnx(
        self,
        setting: Setting,
        precision: str,
        optimize_for: str,
        mask_dtype: str = "uint8",
        rest: str | None = None,
    ) -> Path:
        """The ONNX artifact, exported unless the cache holds it.

        ``rest``: type of what INT8 leaves in float; None takes the usual one of the target.

        Raises:
            DabnetError: the export failed.
        """
        from export.onnx_export import export_onnx

        asked: Any = {
            "precision": precision,
            "optimize_for": optimize_for,
            "mask_dtype": mask_dtype,
            "rest": rest,
        }
        spec = replace(self.spec, size=setting.size, batch=setting.batch, **asked)
        path = self.cache / f"{self._stem(spec)}.onnx"
        with self._alone(path):
            if _manifest_in_cache(path) is None:
                data: Any = {"given": self.given, "data_dir": self.data_dir}
                path.unlink(missing_ok=True)  # it is damaged, and no output of a command
                export_onnx(self.checkpoint_path, path, spec, progress=self.progress, **data)
        return path

    def engine(
        self, setting: Setting, precision: str, product: Product, rest: str | None = None
    ) -> tuple[Path, Path]:
        """The engine, built unless the cache holds it, and the ONNX artifact it was built from.

        Raises:
            DabnetError: the export or the build failed.
        """
        from export.engine.engine import build_engine
        from export.engine.spec import BuildSpec

        mask_dtype = "int32" if product.is_generation_8 else "uint8"
        source = self.onnx(setting, precision, product.graph_target, mask_dtype, rest)
        built_by = f"{product.name}-{product.version}-{self.card_key}"
        path = source.with_suffix(f".{built_by}.engine")
        timings = self.cache / f"{built_by}.timing" if product.has_timing_cache else None
        with self._alone(path):
            cached = _manifest_in_cache(path)
            if cached is None or cached.onnx_sha256 != sha256_of_file(source):
                with self.progress(f"building {product.name} {precision}", 1, "engines") as step:
                    spec = BuildSpec(
                        precision,
                        product=product.name,
                        timing_cache=timings,
                        device=self.device.index,
                    )
                    for damaged in (path, engine_manifest_path(path)):
                        damaged.unlink(missing_ok=True)
                    build_engine(source, path, spec)
                    step()
        return path, source

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Wait, under a line that says for whom, until no other run makes ``path``."""
        with ExitStack() as waiting:

            def wait(line: str) -> None:
                waiting.enter_context(self.progress(line, 1, "files"))

            with file_held(path, "dabnet-bench", wait):
                waiting.close()
                yield

    @cached_property
    def card_key(self) -> str:
        """Differs for each model of card and driver: what is built for one is not for another."""
        with closing(open_device_memory(self.device.index)) as card:
            text = f"{card.name}; {card.compute_capability}; {card.driver}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def _stem(self, spec: ExportSpec) -> str:
        """A name that differs if the content of the artifact may differ."""
        checkpoint = _checkpoint(self.checkpoint_path, self.given)
        asked = {
            "checkpoint": sha256_of_file(self.checkpoint_path),
            "read as": [
                *(checkpoint.model, checkpoint.dataset, checkpoint.labels),
                *(checkpoint.preprocessing, checkpoint.dilations, self.given.void),
            ],
            "data_dir": str(self.data_dir.resolve()) if self.data_dir else "",
            "spec": asdict(spec),
            "tool": __version__,
        }
        text = json.dumps(asked, sort_keys=True, default=str)
        height, width = spec.size
        name = f"{checkpoint.model}-{height}x{width}-{spec.precision}"
        return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@lru_cache(maxsize=1)
def _checkpoint(path: Path, given: Given) -> Checkpoint:
    from dabnet.checkpoint import load_checkpoint

    return load_checkpoint(path, given)


def _manifest_in_cache(path: Path) -> Manifest | None:
    """Of an artifact that is there and sound; None if it must be made."""
    with suppress(ArtifactError, InputError):
        return Artifact.open(path).manifest
    return None
