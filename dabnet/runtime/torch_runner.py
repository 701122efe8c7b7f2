"""PyTorch as a backend: the reference that every other artifact is compared with, and its variants.

``torch.autocast``, ``torch.compile``, channels last and CUDA graphs are what PyTorch itself offers
for speed: https://docs.pytorch.org/docs/stable/amp.html, …/torch.compiler.html,
…/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dabnet.errors import BackendUnavailable, InputError, first_line
from dabnet.head import MASK_AND_CONFIDENCE
from dabnet.models.image_to_mask import ImageToMask
from dabnet.precision import BF16, FP16, FP32, PRECISIONS
from dabnet.runtime.runner import (
    LayerTime,
    Prediction,
    RunnerInfo,
    Uint8Array,
    check_images,
    cpu_name,
    prediction,
)

CPUINFO = Path("/proc/cpuinfo")
_WARM_UP = 3

Results = Tensor | tuple[Tensor, ...]
"""The masks, or masks and confidences."""


@dataclass(frozen=True, slots=True)
class Mode:
    """How a network runs."""

    note: str  # of the row
    precision: str = FP32  # or the type of the convolutions under autocast
    channels_last: bool = False  # the weights lie as NHWC too; the images always do
    compiled: bool = False  # by ``torch.compile``, which folds BatchNorm into constants (freezing)
    captured: bool = False  # each input's run is a CUDA graph


MODES = {
    "eager": Mode("eager"),
    "channels-last": Mode("eager, weights channels last", channels_last=True),
    "compiled": Mode("torch.compile, frozen", channels_last=True, compiled=True),
    "fp16": Mode("eager, autocast to float16", FP16),
    "bf16": Mode("eager, autocast to bfloat16", BF16),
    "cuda-graph": Mode("eager, CUDA graph", captured=True),
}


class TorchRunner:
    """Runs a network as a user of the checkpoint would.

    On CUDA it has a stream of its own, pinned host memory for its copies, cuDNN chooses its kernels
    by trying them, as the published code of DABNet lets it, and TF32 is switched off, so that FP32
    means FP32.

    Args:
        shape: (N, H, W, 3) of the images.
        threads: CPU threads; None leaves PyTorch's choice. Acts on the whole process.
        mode: one of ``MODES``.

    Raises:
        BackendUnavailable: the mode cannot run here, or ``torch.compile`` failed.
    """

    def __init__(
        self,
        module: ImageToMask,
        shape: tuple[int, int, int, int],
        device: torch.device,
        threads: int | None = None,
        mode: str = "eager",
    ) -> None:
        if mode not in MODES:
            raise InputError(f"mode {mode!r}", "one of " + ", ".join(MODES))
        self._mode, self._device = MODES[mode], device
        notes = (self._mode.note, *mode_notes(mode, device.type))
        if threads is not None:
            torch.set_num_threads(threads)
        self._stream: torch.cuda.Stream | None = None
        name = cpu_name(torch.get_num_threads())
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.benchmark = True
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            name = torch.cuda.get_device_name(device)
        self._module = module.to(device).eval()
        if self._mode.channels_last:
            self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._call: Callable[[Tensor], Results] = self._module
        self._staged: list[Tensor] = []
        self._captured: list[CapturedCall] = []
        self._own: CapturedCall | None = None
        self._pinned: tuple[Tensor, ...] = ()  # images and results, on CUDA
        precision, version = self._mode.precision, torch.__version__
        ran = (name, precision, shape, notes)
        self.info = RunnerInfo("pytorch", version, *ran, head=self._module.head)
        if self._mode.compiled:
            self._compile()

    def infer(self, images: Uint8Array) -> Uint8Array:
        return self._results(images)[0]

    def infer_with_confidence(self, images: Uint8Array) -> Prediction:
        return prediction(self._results(images))

    def _results(self, images: Uint8Array) -> list[Uint8Array]:
        images = check_images(images, self.info.shape)
        with self._running():
            if self._stream is None:
                results = _all(self._call(torch.from_numpy(images)))
                return [result.to(torch.uint8).numpy() for result in results]
            return self._results_on_gpu(images, self._stream)

    def _results_on_gpu(self, images: Uint8Array, stream: torch.cuda.Stream) -> list[Uint8Array]:
        """By way of pinned memory: only its copies need no further one in the driver."""
        if not self._pinned:
            count = 2 if self.info.head == MASK_AND_CONFIDENCE else 1
            shapes = (self.info.shape, *[self.info.shape[:3]] * count)
            made = (torch.empty(s, dtype=torch.uint8, pin_memory=True) for s in shapes)
            self._pinned = tuple(made)
        given, *found = self._pinned
        given.copy_(torch.from_numpy(images))
        if self._mode.captured:
            self._own = self._own or self._capture(given.to(self._device))
            results = self._own.replay(given)
        else:
            results = self._call(given.to(self._device, non_blocking=True))
        for pinned, result in zip(found, _all(results), strict=True):
            pinned.copy_(result, non_blocking=True)
        stream.synchronize()
        return [pinned.numpy().copy() for pinned in found]  # the next call writes to the memory

    def stage(self, batches: Sequence[Uint8Array]) -> None:
        checked = [check_images(images, self.info.shape) for images in batches]
        with self._running():
            # A copy on the CPU too, where ``to`` gives a view: the arrays belong to the caller.
            self._staged = [torch.from_numpy(i).to(self._device, copy=True) for i in checked]
            if self._mode.captured:
                self._captured = [self._capture(images) for images in self._staged]

    def launch(self, index: int) -> None:
        with self._running():
            if self._mode.captured:
                self._captured[index].replay()
            else:
                self._call(self._staged[index])

    def synchronize(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()

    def gpu_seconds(self, index: int) -> float:
        if self._stream is None:
            raise BackendUnavailable("CUDA events on the CPU")
        event: Any = torch.cuda.Event
        start, end = (event(enable_timing=True) for _ in range(2))
        start.record(self._stream)
        self.launch(index)
        end.record(self._stream)
        end.synchronize()
        return 1e-3 * float(start.elapsed_time(end))

    def layer_times(self, images: Uint8Array, calls: int) -> tuple[LayerTime, ...]:
        """Time by operator and shape of its input, after one run that is not counted.

        On the CPU: the operators' own time, without that of operators which they call. On CUDA: the
        time of the kernels, by the operator that launched them or, where none did (a CUDA graph is
        replayed as a whole), by kernel.
        """
        self.stage([images])
        self.launch(0)
        self.synchronize()
        on_cuda = self._device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
        with profile(activities=activities, record_shapes=True) as profiler:
            for _ in range(calls):
                self.launch(0)
            self.synchronize()
        events = list(profiler.key_averages(group_by_input_shape=True))
        operators = [event for event in events if event.device_type.name == "CPU"]
        if not on_cuda:
            return _layers(operators, "self_cpu_time_total", calls)
        attribute = "self_device_time_total"
        launched = [event for event in operators if _microseconds(event, attribute) > 0]
        kernels = [event for event in events if event.device_type.name == "CUDA"]
        return _layers(launched or kernels, attribute, calls)

    def close(self) -> None:
        self.synchronize()
        self._staged, self._captured, self._own, self._pinned = [], [], None, ()
        del self._module, self._call

    @contextmanager
    def _running(self) -> Iterator[None]:
        with ExitStack() as stack:
            # What is frozen may be called under no_grad alone.
            stack.enter_context(torch.no_grad() if self._mode.compiled else torch.inference_mode())
            if self._stream is not None:
                stack.enter_context(torch.cuda.stream(self._stream))
            if self._mode.precision != FP32:
                dtype = getattr(torch, PRECISIONS[self._mode.precision].dtype)
                stack.enter_context(torch.autocast(self._device.type, dtype))
            yield

    def _capture(self, images: Tensor) -> CapturedCall:
        assert self._stream is not None
        return CapturedCall(self._call, images, self._stream)

    def _compile(self) -> None:
        import torch._inductor.config as inductor

        inductor.freezing = True  # type: ignore[attr-defined, unused-ignore]
        # On CUDA this mode replays CUDA graphs: without it, launches cost what fusion gains.
        how = "reduce-overhead" if self._device.type == "cuda" else "default"
        self._call = torch.compile(self._module, mode=how)
        try:
            with self._running():
                self._call(torch.zeros(self.info.shape, dtype=torch.uint8, device=self._device))
            self.synchronize()
        except Exception as error:  # the compiler, and the compilers that it calls, raise anything
            raise BackendUnavailable(
                f"torch.compile failed ({first_line(error)})",
                fix="it needs a C++ compiler; on CUDA Triton and compute capability 7.0",
            ) from error


def mode_notes(mode: str, device: str) -> tuple[str, ...]:
    """Return what a reader must know of a mode on ``cpu`` or ``cuda``.

    Raises:
        BackendUnavailable: it cannot run there, or to no purpose.
    """
    if device == "cuda":
        return ()
    if mode == "cuda-graph":
        raise BackendUnavailable("a CUDA graph needs a GPU")
    if mode == "fp16" and not _native(FP16):
        raise BackendUnavailable("this processor has no FP16 arithmetic: PyTorch would emulate it")
    if mode == "bf16" and not _native(BF16):
        return ("this processor has no bfloat16 arithmetic: emulated",)
    return ()


def _native(precision: str) -> bool:
    flags = CPUINFO.read_text(errors="replace").split() if CPUINFO.is_file() else []
    return not set(PRECISIONS[precision].cpu_flags).isdisjoint(flags)


class CapturedCall:
    """``function(images)`` as a CUDA graph; a replay reads and writes the buffers of the record.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs

    Args:
        function: runs without autocast: its cast weights would be freed before a replay.
        images: on the GPU; the graph reads this very tensor.
        stream: on which to record; it must be the current stream, and not the default one.
    """

    def __init__(
        self, function: Callable[[Tensor], Results], images: Tensor, stream: torch.cuda.Stream
    ) -> None:
        self._images = images
        for _ in range(_WARM_UP):  # cuDNN tries its kernels, which cannot be recorded
            function(images)
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._result = function(images)

    def replay(self, images: Tensor | None = None) -> Results:
        """Start a run, of other images if they are given; the result is overwritten by the next."""
        if images is not None:
            self._images.copy_(images, non_blocking=True)
        self._graph.replay()
        return self._result


def _all(results: Results) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def _layers(events: list[Any], attribute: str, calls: int) -> tuple[LayerTime, ...]:
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for event in events:
        kind = str(event.key).removeprefix("aten::")
        if "CompiledFxGraph" in kind:  # what torch.compile wrote itself, as one function
            kind = "compiled code"
        shapes = [shape for shape in event.input_shapes or [] if shape]
        first = "x".join(map(str, shapes[0])) if shapes else ""
        seconds[f"{kind} {first}".strip(), kind] += 1e-6 * _microseconds(event, attribute)
    return LayerTime.ranked([(*layer, time / calls) for layer, time in seconds.items() if time > 0])


def _microseconds(event: Any, attribute: str) -> float:
    """PyTorch before 2.4 says ``cuda`` where it now says ``device``."""
    old = attribute.replace("device", "cuda")
    return float(getattr(event, attribute, None) or getattr(event, old, None) or 0.0)
