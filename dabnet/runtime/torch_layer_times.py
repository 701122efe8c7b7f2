"""Time by operator, from ``torch.profiler`` (https://docs.pytorch.org/docs/stable/profiler.html)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

from dabnet.runtime.layer_time import LayerTime, layer_times


def torch_layer_times(
    run: Callable[[], None], synchronize: Callable[[], None], calls: int, device: str
) -> tuple[LayerTime, ...]:
    """Profile ``calls`` runs after one that is not counted.

    Returns:
        On the CPU the operators' own time, without that of operators which they call. On CUDA the
        time of the kernels, by the operator that launched them or, where none did (a CUDA graph is
        replayed as a whole), by kernel.
    """
    run()
    synchronize()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities, record_shapes=True) as profiler:
        for _ in range(calls):
            run()
        synchronize()
    events = list(profiler.key_averages(group_by_input_shape=True))
    operators = [event for event in events if event.device_type.name == "CPU"]
    if device != "cuda":
        return _layers(operators, "self_cpu_time_total", calls)
    launched = [event for event in operators if _microseconds(event, "self_device_time_total") > 0]
    kernels = [event for event in events if event.device_type.name == "CUDA"]
    return _layers(launched or kernels, "self_device_time_total", calls)


def _layers(events: list[Any], attribute: str, calls: int) -> tuple[LayerTime, ...]:
    """Sum over what has one name: an operator and the shape of its first tensor."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for event in events:
        kind = str(event.key).removeprefix("aten::")
        if "CompiledFxGraph" in kind:  # what torch.compile wrote itself, as one function
            kind = "compiled code"
        shapes = [shape for shape in event.input_shapes or [] if shape]
        first = "x".join(map(str, shapes[0])) if shapes else ""
        seconds[f"{kind} {first}".strip(), kind] += 1e-6 * _microseconds(event, attribute)
    return layer_times([(*layer, time / calls) for layer, time in seconds.items() if time > 0])


def _microseconds(event: Any, attribute: str) -> float:
    """PyTorch before 2.4 says ``cuda`` where it now says ``device``."""
    old = attribute.replace("device", "cuda")
    return float(getattr(event, attribute, None) or getattr(event, old, None) or 0.0)
