"""What the steps on a card share: the setup, the figures they note, commands, prepared files."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from step_process import (
    FAILED,
    NOT_ACCEPTED,
    NOT_INSTALLED,
    OK,
    OUTCOME,
    OUTCOME_FILE,
    Outcome,
    ended_by,
)

from dabnet.device import Device
from dabnet.errors import DabnetError, MissingPackage, first_line
from dabnet.precision import PRECISIONS

if TYPE_CHECKING:
    from dabnet.runtime.cuda import DeviceMemory

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights" / "dabnet_toy_street.pth"
IMAGES = 2
CALIBRATION_IMAGES = 8


class NotInstalled(DabnetError):
    """A package that the step is about is missing, or built without what it needs."""


class NotAccepted(DabnetError):
    """The product does not serve this card."""


class StepFailed(DabnetError):
    """A command failed, or a figure is not sound."""


@dataclass(frozen=True)
class Setup:
    """What is checked.

    Attributes:
        work: folder of everything that is written, but for the records in its parent.
        size: (height, width) of the images in pixels.
    """

    work: Path
    device: Device
    size: tuple[int, int]

    def opened_memory(self) -> DeviceMemory:
        from dabnet.runtime.cuda import gpu_unavailable_reason, open_device_memory

        packages = ("cuda.bindings.runtime", "pycuda.driver")
        if not any(map(_imports, packages)):
            raise NotInstalled(gpu_unavailable_reason(self.device.index) or "")
        return open_device_memory(self.device.index)

    def exported(self, target: str, precision: str, mask_dtype: str = "uint8") -> Path:
        """The shipped toy-street network as an ONNX file, exported unless it is there."""
        path = self.work / f"{target}-{precision}-{mask_dtype}.onnx"
        if not path.is_file():
            in_process(export, path, self.size, target, precision, mask_dtype)
        return path

    def reference(self) -> tuple[Any, Any]:
        """Images uint8 (N, H, W, 3), and PyTorch's masks of them on the CPU in FP32."""
        import numpy as np

        path = self.work / "reference.npz"
        if not path.is_file():
            in_process(write_reference, path, self.size)
        with np.load(path) as kept:
            return kept["images"], kept["masks"]


class Task:
    """A step at work: what it may take, and the figures that it noted.

    Args:
        limit_s: seconds after which it would be ended.
    """

    def __init__(self, setup: Setup, limit_s: float = math.inf) -> None:
        self.setup, self.limit_s = setup, limit_s
        self.figures: dict[str, float | int | str] = {}

    def note(self, **figures: float | int | str) -> None:
        """Keep figures, whatever happens later; floats in six digits."""
        for name, value in figures.items():
            self.figures[name] = float(f"{value:.6g}") if isinstance(value, float) else value
            print(f"{name}: {self.figures[name]}", flush=True)
        self.tell(Outcome(figures=self.figures))

    def tell(self, outcome: Outcome) -> None:
        if file := os.environ.get(OUTCOME_FILE):
            OUTCOME.write(outcome, file)


def perform(function: Callable[[Task], None], task: Task) -> Outcome:
    """Run a step in this process; its outcome goes to the file that the variable names."""
    verdict, reason = OK, ""
    try:
        function(task)
    except (NotInstalled, MissingPackage) as error:
        verdict, reason = NOT_INSTALLED, str(error)
    except NotAccepted as error:
        verdict, reason = NOT_ACCEPTED, str(error)
    except Exception as error:  # of any library: the traceback goes to the log
        if not isinstance(error, DabnetError):
            traceback.print_exc()
        verdict, reason = FAILED, reason_of(error)
    outcome = Outcome(verdict, reason, task.figures)
    print(verdict, reason, flush=True)
    task.tell(outcome)
    return outcome


class CommandFailed(StepFailed):
    """A program ended with an error; the message is what it said last."""

    def __init__(self, lines: Sequence[str], code: int) -> None:
        self.lines = lines
        said = [line for line in lines if line.startswith("error: ")] or [x for x in lines if x]
        last = said[-1].removeprefix("error: ") if said else f"exit code {code}"
        super().__init__(ended_by(code) or last)


def command(*words: object) -> list[str]:
    """Run Python with ``words``; return the lines of its output, which go to the log as well."""
    lines = []
    options: dict[str, Any] = {"text": True, "encoding": "utf-8", "errors": "replace"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, *map(str, words)], **options, **pipes) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        raise CommandFailed(lines, process.returncode)
    return lines


def product_command(module: str, *words: object) -> list[str]:
    """Run ``dabnet-train``, ``dabnet-export`` or ``dabnet-bench`` by their module."""
    print("$", module, *words, flush=True)
    return command("-c", f"from {module} import main; main()", *words)


# --- preparation, in processes of their own: it needs torch ------------------------------------


def in_process(function: Callable[..., None], *arguments: object) -> None:
    """Call a function of this module in a fresh process; its error is raised here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(function, *arguments).result()


def write_reference(path: Path, size: tuple[int, int]) -> None:
    """Write two drawn images and their masks, as ``Setup.reference`` reads them."""
    import numpy as np

    from dabnet.artifact import open_checkpoint
    from dabnet.data.images import images_or_scenes
    from dabnet.files import replacing

    scenes = images_or_scenes("toy-street", "val", None, IMAGES, size)
    images = np.stack([item.image for item in scenes])
    with closing(open_checkpoint(WEIGHTS, None, (1, *size, 3))) as runner:
        masks = np.stack([runner.infer(image[None])[0] for image in images])
    with replacing(path) as temporary:
        np.savez(temporary, images=images, masks=masks)


def export(path: Path, size: tuple[int, int], target: str, precision: str, mask_dtype: str) -> None:
    from dabnet.console import progress_bar
    from export.onnx_export import export_onnx
    from export.spec import ExportSpec

    spec = ExportSpec(
        size=size,
        precision=precision,
        optimize_for=target,
        mask_dtype=mask_dtype,
        calibration_images=CALIBRATION_IMAGES,
        check_images=1,
        minimum_agreement=PRECISIONS[precision].sound_agreement,
    )
    export_onnx(WEIGHTS, path, spec, progress=progress_bar)


def missing_gpu(index: int) -> str:
    """Why no package finds the GPU; "" if one does."""
    from dabnet.runtime.cuda import gpu_unavailable_reason

    if reason := gpu_unavailable_reason(index):
        try:  # without cuda-python and pycuda PyTorch may still run
            import torch
        except ImportError:
            return reason
        return "" if torch.cuda.is_available() and torch.cuda.device_count() > index else reason
    return ""


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError as error:
        return "libcuda" in str(error)  # pycuda without a driver
    return True


def reason_of(error: Exception) -> str:
    if isinstance(error, DabnetError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"
