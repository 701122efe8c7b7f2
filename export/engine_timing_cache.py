"""The file of kernel timings that makes the next build of the same network fast.

API: ``IBuilderConfig.create_timing_cache``, ``set_timing_cache``, ``get_timing_cache``. A cache
holds for one version and one GPU model; of any other TensorRT says in its log that it is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dabnet.errors import InputError
from dabnet.files import replacing
from dabnet.runtime.tensorrt_product import Product, logger_of


def attach_timing_cache(
    product: Product, config: Any, path: Path, tell: Callable[[str], None]
) -> None:
    """Give ``config`` the timings in ``path``, or none where they are not for this build.

    Raises:
        InputError: the file is there and cannot be read.
    """
    try:
        stored = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(
            f"the timing cache {str(path)!r} cannot be read ({error.strerror})", "a readable file"
        ) from error
    # What is said of a cache that does not fit is no reason for a build that fails later.
    with logger_of(product).collect() as messages:
        cache = config.create_timing_cache(stored)
        taken = cache is not None and config.set_timing_cache(cache, False)
    said = [*messages.errors, *messages.warnings]
    if taken and not any("timing cache" in text.lower() for text in said):
        return
    tell(f"{path.name} is no timing cache of this version and GPU: starts an empty one")
    if not taken:
        config.set_timing_cache(config.create_timing_cache(b""), False)


def save_timing_cache(config: Any, path: Path) -> None:
    """Write the timings, those of the build included, atomically."""
    content = config.get_timing_cache().serialize()
    with replacing(path) as temporary:
        temporary.write_bytes(content)
