"""What pip installs: the extras agree with the constraints, and pip can meet both."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support import ROOT
from tests.support.processes import run_python

EXTRAS_OF = {
    "cpu": {"cpu", "openvino", "rtx", "peers", "tensorboard", "video"},
    "gpu": {"gpu", "rtx", "tensorboard", "video"},
    "pascal": {"pascal", "pycuda", "tensorboard", "video"},
}
"""By constraints file, the extras whose packages it pins."""
UNPINNED = {"dev", "reference", "visdom"}
"""Tools beside the product: the newest that fit."""
NVIDIA_INDEX = "--extra-index-url https://pypi.nvidia.com"
SOURCES = {"tensorrt", "tensorrt-rtx", "pycuda"}
"""PyPI has no wheels of these: NVIDIA's index has them, or a compiler builds them."""
GLIBC_2_28 = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 16, -1)]
TAGS = [*GLIBC_2_28, "manylinux2014_x86_64", "manylinux2010_x86_64"]


def _requirements(lines: Iterable[str]) -> list[Requirement]:
    words = (line.split("#")[0].strip() for line in lines)
    return [Requirement(word) for word in words if word]


def constraints(hardware: str) -> dict[str, Requirement]:
    lines = (ROOT / "constraints" / f"{hardware}.txt").read_text(encoding="utf-8").splitlines()
    return {pin.name: pin for pin in _requirements(lines)}


SETUP = ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
BASE = _requirements(SETUP["options"]["install_requires"].splitlines())
EXTRAS = {
    extra: _requirements(text.splitlines())
    for extra, text in SETUP["options.extras_require"].items()
}


def asked(extra: str, package: str) -> Requirement:
    (found,) = (wanted for wanted in EXTRAS[extra] if wanted.name == package)
    return found


def meets(pin: Requirement | None, wanted: Requirement) -> bool:
    """Whether the lowest version that ``pin`` allows is one that ``wanted`` asks for."""
    if pin is None:
        return False
    (lowest,) = (part.version for part in pin.specifier if part.operator in ("==", ">="))
    return wanted.specifier.contains(Version(lowest), prereleases=True)


@pytest.mark.parametrize("hardware", EXTRAS_OF)
def test_every_requirement_has_a_constraint_that_meets_it(hardware: str) -> None:
    pins = constraints(hardware)
    wanted = [*BASE, *(need for extra in EXTRAS_OF[hardware] for need in EXTRAS[extra])]
    wanted += [need for need in EXTRAS["dev"] if need.name in pins]
    assert [
        f"{need}: {pins.get(need.name)}" for need in wanted if not meets(pins.get(need.name), need)
    ] == []


def test_the_lock_holds_all_of_the_cpu_set_by_hash() -> None:
    text = (ROOT / "constraints" / "cpu.lock").read_text(encoding="utf-8")
    entries = re.findall(
        r"^(\S+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.M
    )
    assert "".join(f"{name}=={version} \\\n{sums}" for name, version, sums in entries) == text
    locked = {canonicalize_name(name): version for name, version, _ in entries}
    pins = {canonicalize_name(name): pin for name, pin in constraints("cpu").items()}
    wrong = [f"{n}=={v}" for n, v in locked.items() if n in pins and v not in pins[n].specifier]
    assert wrong == []
    extras = re.search(r"^EXTRAS_cpu +:= (\S+)$", (ROOT / "Makefile").read_text(), re.M)
    assert extras
    wanted = [*BASE, *(need for extra in extras[1].split(",") for need in EXTRAS[extra])]
    names = {canonicalize_name(need.name) for need in wanted}
    assert names - locked.keys() == {"torch"}  # its files differ from index to index


def test_no_extra_is_without_constraints() -> None:
    assert set().union(*EXTRAS_OF.values()) | UNPINNED == EXTRAS.keys()


@pytest.mark.parametrize(
    ("extra", "package", "first", "refused"),
    [
        # int8 on AVX2-VNNI and AMX: https://github.com/microsoft/onnxruntime/pull/27671
        ("cpu", "onnxruntime", "1.25.0", "1.24.4"),
        ("gpu", "onnxruntime-gpu", "1.25.0", "1.24.4"),
        # ArgMax at opset 12 on CUDA: https://github.com/microsoft/onnxruntime/pull/22713
        ("pascal", "onnxruntime-gpu", "1.21.0", "1.20.2"),
        # cuobjdump: the wheel of 1.26.0 has code for sm_60, that of 1.27.0 none below sm_75.
        ("pascal", "onnxruntime-gpu", "1.26.0", "1.27.0"),
        # The setup.py of 8.6.1 calls pip in pip's isolated build, which has none.
        ("pascal", "tensorrt", "8.6.1.post1", "8.6.1"),
        ("pascal", "tensorrt", "8.6.1.post1", "10.0.1"),
        # cuda.bindings came after 12.6.0; CUDA 13 has no code for these cards.
        *((extra, "cuda-python", "12.6.2.post1", "12.6.0") for extra in ("gpu", "rtx", "pascal")),
        ("pascal", "cuda-python", "12.9.10", "13.0.0"),
    ],
)
def test_the_limits_of_versions(extra: str, package: str, first: str, refused: str) -> None:
    specifier = asked(extra, package).specifier
    assert (specifier.contains(first), specifier.contains(refused)) == (True, False)


def test_device_memory_and_telemetry_come_as_wheels() -> None:
    """pycuda is built from source, so only its own extra has it; tests take the names of NVML."""
    have = {
        package: {extra for extra, needs in EXTRAS.items() if package in {n.name for n in needs}}
        for package in ("pycuda", "nvidia-ml-py")
    }
    assert have == {"pycuda": {"pycuda"}, "nvidia-ml-py": {"gpu", "pascal", "dev"}}


def test_the_commands_install_what_exists(tmp_path: Path) -> None:
    """Of the tutorial, the constraints and ``make``; those for Pascal name NVIDIA's index."""
    texts = [ROOT / "docs" / "tutorial.md", *(ROOT / "constraints").glob("*.txt")]
    told = [path.read_text(encoding="utf-8") for path in texts]
    for hardware in EXTRAS_OF:
        words = ["make", "--dry-run", "install", f"HARDWARE={hardware}", f"VENV={tmp_path}"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        told.append(done.stdout.replace("\\\n", ""))
    pattern = r"pip install ([^`\n]*?)-c constraints/(\w+)\.txt +(?:-e )?'\.\[([\w,]+)\]'"
    commands = [found for text in told for found in re.findall(pattern, text)]
    assert len(commands) == 4 + 4 + 2  # ``make`` installs the CPU set from its lock
    for options, hardware, extras in commands:
        assert set(extras.split(",")) <= EXTRAS_OF[hardware] | UNPINNED
        assert (NVIDIA_INDEX in options) == (hardware == "pascal")


def dry_run(python: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Let pip resolve for Linux on x86-64 with glibc 2.28 and this Python; install nothing.

    ``fast-deps``: from an index without metadata, read the end of a wheel, not gigabytes.
    """
    target = ["--only-binary", ":all:", "--python-version", python]
    target += [word for tag in TAGS for word in ("--platform", tag)]
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    return subprocess.run(
        [*pip, "--use-feature=fast-deps", "--retries", "1", *target, *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hardware", "python"), [("cpu", "3.11"), ("pascal", "3.10"), ("pascal", "3.11")]
)
def test_pip_resolves_what_pypi_has(hardware: str, python: str, tmp_path: Path) -> None:
    """All but what NVIDIA's index has or what is compiled."""
    if (probe := dry_run(python, "--no-deps", "nvidia-ml-py")).returncode:
        pytest.skip(f"no package index answers: {probe.stderr.strip().splitlines()[-1]}")
    needs = [*BASE, *(need for extra in sorted(EXTRAS_OF[hardware]) for need in EXTRAS[extra])]
    pins = tmp_path / "pins.txt"
    kept = (pin for name, pin in constraints(hardware).items() if name not in SOURCES)
    pins.write_text("\n".join(map(str, kept)), encoding="utf-8")
    wheels = [str(need) for need in needs if need.name not in SOURCES]
    done = dry_run(python, "-c", str(pins), *wheels)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_demo_needs_no_network(tmp_path: Path) -> None:
    """In a network namespace of its own, which has no interface that is up."""
    alone = ["unshare", "--map-root-user", "--net"]
    program = shutil.which("unshare")
    if not program or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no network namespaces")
    unreachable = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    probe = [*alone, sys.executable, "-c", unreachable]
    assert b"unreachable" in subprocess.run(probe, capture_output=True, check=False).stderr
    venv, out = Path(sys.prefix), tmp_path / "demo"
    installed = f"--assume-old={venv / '.installed-cpu'}"
    words = ["make", installed, "demo", f"VENV={venv}", f"OUT={out}"]
    done = subprocess.run([*alone, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "bench" / "bench.html").is_file()


@pytest.mark.parametrize(("own", "kept"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_telemetry_of_onnxruntime_is_off_unless_the_user_wants_it(
    own: dict[str, str], kept: str
) -> None:
    program = "import os, dabnet.artifact; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
        assert run_python(program, **own).stdout == f"{kept}\n"
