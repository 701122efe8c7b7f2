"""Time by layer, as TensorRT reports it to a profiler.

https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/Profiler.html.
A context with a profiler runs its layers one after another and waits for the last of them
(``IExecutionContext.enqueue_emits_profile``, which is on by default).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from dabnet.errors import BackendUnavailable
from dabnet.runtime.engine_layers import named_layers
from dabnet.runtime.layer_time import LayerTime, layer_times


def engine_layer_times(
    trt: Any, engine: Any, run: Callable[[Any], None], calls: int
) -> tuple[LayerTime, ...]:
    """Return the mean time of each layer.

    Args:
        trt: the module that runs ``engine``.
        run: takes a profiler, and runs the engine ``calls`` times under it.

    Raises:
        BackendUnavailable: nothing was reported.
    """
    sums: dict[str, float] = defaultdict(float)

    def note(name: str, seconds: float) -> None:
        sums[name] += seconds

    run(_profiler(trt, note))
    if not sums:
        raise BackendUnavailable("TensorRT reported no layers to its profiler")
    kinds = {name: kind for name, kind, _ in named_layers(trt, engine)}
    return layer_times([(name, kinds.get(name, ""), t / calls) for name, t in sums.items()])


def _profiler(trt: Any, note: Callable[[str, float], None]) -> Any:
    """An ``IProfiler`` that passes on each layer's name and seconds."""

    def report_layer_time(_: Any, layer_name: str, ms: float) -> None:
        note(str(layer_name), 1e-3 * float(ms))

    # The base class is known only at run time, so ``class`` cannot be used under mypy strict.
    return type("LayerProfiler", (trt.IProfiler,), {"report_layer_time": report_layer_time})()
