"""``tools/gpu_check.py``: as a user runs it, on machines without a GPU and with one of doubles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dabnet.runtime.cuda import gpu_unavailable_reason
from tests.support import ROOT
from tests.support.processes import environment

sys.path.insert(0, str(ROOT / "tools"))

from gpu_check import CODEC, Check, own_steps
from step_process import FAILED, NOT_ACCEPTED, NOT_INSTALLED, OK, StepRecord

TOOLS = ROOT / "tools"
MACHINE = ROOT / "tests" / "support" / "gpu_machine"
SIZE = "32x64"
GPU_TESTS = {
    "runtime/test_card.py": "import pytest\n\n\n"
    "@pytest.mark.gpu\ndef test_card() -> None:\n    open('made here', 'w').close()\n\n\n"
    "@pytest.mark.gpu\n@pytest.mark.skip(reason='another card')\ndef test_b() -> None: ...\n\n\n"
    "def test_without_a_card() -> None:\n    raise AssertionError\n",
    "training/test_broken.py": "import pytest\n\npytestmark = [\n    pytest.mark.gpu,\n]\n\n\n"
    "def test_broken() -> None:\n    assert 'loss' == 'nan'\n",
    "bench/test_absent.py": "import pytest\n\n\n"
    "@pytest.mark.gpu\ndef test_absent() -> None:\n    pytest.importorskip('no_such_package')\n",
    "test_nothing.py": "# A test would be marked @pytest.mark.gpu here.\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The product and its tools in a folder, with a few tests of its own."""
    copy = tmp_path / "tree"
    kept = shutil.ignore_patterns("__pycache__")
    for name in ("dabnet", "calibration", "export", "bench", "tools", "weights"):
        shutil.copytree(ROOT / name, copy / name, ignore=kept)
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name, text in GPU_TESTS.items():
        path = copy / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return copy


def content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def check(
    tree: Path, output: Path, packages: str, *words: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the tool of ``tree`` on the machine of doubles; note what it writes elsewhere."""
    more = {
        "PYTHONPATH": os.pathsep.join(map(str, (MACHINE, tree, ROOT))),
        "DOUBLE_PACKAGES": packages,
        "DOUBLE_SIZE": SIZE,
        "AUDIT_FILE": str(output.parent / "audit"),
        "AUDIT_FOLDER": str(output),
        "CUDA_VISIBLE_DEVICES": "",  # PyTorch is the real one
        "PYTHONDONTWRITEBYTECODE": "",
        "HOME": str(output.parent / "home"),
        "TMPDIR": str(output.parent / "elsewhere"),  # it does not exist
    }
    command = [sys.executable, str(tree / "tools" / "gpu_check.py"), "--output", str(output)]
    return subprocess.run(
        [*command, "--size", SIZE, *words],
        cwd=output.parent,
        env=environment(**more, **variables),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def steps_of(output: Path) -> tuple[Check, dict[str, StepRecord]]:
    text = (output / "gpu-check.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    read = CODEC.parse(text, "the check")
    return read, {step.name: step for step in read.steps}


@pytest.mark.skipif(gpu_unavailable_reason() is None, reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TOOLS / "gpu_check.py"), "--output", str(tmp_path / "out")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {gpu_unavailable_reason()}\n"
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = check(ROOT, output, "", "--device", "cuda:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no GPU cuda:1; expected one of the 1 that CUDA sees\n"
    assert not output.exists()


def test_only_what_is_installed_is_run(tree: Path, tmp_path: Path) -> None:
    """In a tree that it leaves as it is, without the network, with all files in its folder."""
    output, before = tmp_path / "out", content(tree)
    done = check(tree, output, "")
    assert done.returncode == 1, done.stderr
    assert not (tmp_path / "audit").exists(), (tmp_path / "audit").read_text()
    assert content(tree) == before
    assert {path.name for path in tmp_path.iterdir()} == {"tree", "out"}
    kept = {path.name for path in output.iterdir()}
    assert kept == {"gpu-check.json", "gpu-check.log", "gpu-check-work"}

    found, steps = steps_of(output)
    assert (found.complete, found.device, found.size) == (True, "cuda:0", (32, 64))
    assert "NVIDIA Double 3090 (compute capability 8.6)" in found.environment["gpu"]
    assert found.environment["gpu settings"] == "driver 580.1"
    assert found.versions["torch"]
    ok = {name for name, step in steps.items() if step.verdict == OK}
    assert ok == {"versions", "memory", "graphs", "pytest-runtime"}
    assert steps["memory"].figures.keys() == {
        *("up_gb_per_s", "on_device_gb_per_s", "down_gb_per_s"),
    }
    assert steps["graphs"].figures["graph_copy_us"] == pytest.approx(0.0105)
    assert steps["pytest-runtime"].figures == {"passed": 1, "skipped": 1}
    assert (output / "gpu-check-work" / "made here").is_file()
    broken, absent = steps["pytest-training"], steps["pytest-bench"]
    assert (broken.verdict, broken.figures) == (FAILED, {"failed": 1})
    assert broken.reason.startswith("FAILED tests/training/test_broken.py::test_broken - Assert")
    assert (absent.verdict, absent.figures) == (NOT_INSTALLED, {"skipped": 1})
    assert "no_such_package" in absent.reason
    for name in ("onnxruntime-int8", "tensorrt-graph-sets", "onnxruntime-on-tensorrt_rtx"):
        assert steps[name].verdict == NOT_INSTALLED
        assert "is not installed" in steps[name].reason
    for name in ("pytorch", "pytorch-compiled", "bench-streams", "training"):
        assert steps[name].verdict in (NOT_INSTALLED, FAILED)  # by the build of PyTorch
        assert "PyTorch" in steps[name].reason
    assert set(steps) == {f"pytest-{name}" for name in ("bench", "runtime", "training")} | {
        name for name in own_steps() if not name.startswith("pytest-")
    }
    for text in ("FAILED tests/training/test_broken.py", "4 ok, ", " failed", str(output)):
        assert text in done.stdout
    assert "=== pytest-training, at most 120 s" in (output / "gpu-check.log").read_text()


@pytest.mark.slow
def test_from_start_to_end(tree: Path, tmp_path: Path) -> None:
    """All runtimes on a card that TensorRT-RTX does not serve; PyTorch's steps stop no other."""
    output, before = tmp_path / "out", content(tree)
    packages, card = "onnxruntime tensorrt tensorrt_rtx", {"DOUBLE_CARD": "9.0"}
    done = check(tree, output, packages, DOUBLE_REFUSES="rtx-1.7.1", **card)
    assert not (tmp_path / "audit").exists(), (tmp_path / "audit").read_text()
    assert content(tree) == before
    _, steps = steps_of(output)
    for name in ("onnxruntime-fp32", "onnxruntime-fp16", "onnxruntime-int8", "tensorrt-fp16"):
        step = steps[name]
        assert (step.verdict, step.reason) == (OK, ""), done.stderr
        for way in ("plain", "graph"):
            assert step.figures[f"{way}_events_ms"] == 1000  # by the clock of the double
            assert step.figures[f"{way}_agreement_percent"] > 95
            assert 0 < step.figures[f"{way}_device_ms"] < 1000
    notes = steps["onnxruntime-int8"].figures["graph_notes"]
    assert notes == "CUDAExecutionProvider; CUDA graph; exact Q/DQ in float32"
    sets = steps["tensorrt-graph-sets"].figures
    for target in ("portable", "ort-cuda", "tensorrt", "tensorrt-rtx"):
        assert sets[f"{target}_kernels"] == 2
        assert sets[f"{target}_graph_events_ms"] == 1000
    assert "tensorrt_build_s" not in sets  # it is the engine of an earlier step
    assert steps["onnxruntime-on-tensorrt"].figures["graph_notes"].startswith("Tensorrt")
    reason = "NVIDIA Double 3090, compute capability 9.0: tensorrt_rtx 1.7.1 built no engine: "
    for name in ("tensorrt_rtx-fp32", "tensorrt_rtx-int8", "tensorrt_rtx-graph-sets"):
        assert steps[name].verdict == NOT_ACCEPTED
        assert steps[name].reason == reason + "Unsupported SM"
    assert steps["tensorrt_rtx-int8"].seconds == 0.0
    assert steps["training"].verdict in (NOT_INSTALLED, FAILED)


def test_the_double_notes_what_is_written_elsewhere(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    program = "import os, socket; open(os.environ['OUT'] + '/inside', 'w').close()\n"
    program += "os.makedirs(os.environ['OUT'] + '/../beside')\n"
    program += "try:\n    socket.create_connection(('localhost', 9), 1)\nexcept OSError: pass\n"
    folder = tmp_path / "out"
    folder.mkdir()
    more = {"AUDIT_FILE": str(tmp_path / "audit"), "AUDIT_FOLDER": str(folder), "OUT": str(folder)}
    paths = os.pathsep.join(map(str, (MACHINE, ROOT)))
    subprocess.run(
        [sys.executable, "-B", "-c", program],
        env=environment(**more) | {"PYTHONPATH": paths},
        check=True,
    )
    first, *others = (tmp_path / "audit").read_text().splitlines()
    assert first.startswith(f"os.mkdir {tmp_path / 'beside'}")
    assert any(line.startswith("socket.") for line in others)
    assert not any("inside" in line for line in (first, *others))
