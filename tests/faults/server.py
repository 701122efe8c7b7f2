"""Runs commands, each in a fork of this process, which has imported their libraries once.

A line of JSON on stdin asks for a run, a line on stdout tells how it ended (``verdict.Ended``).
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.case import CLOSED, FULL, UNREAD
from tests.support.forked_commands import one_thread_in_forks

COMMANDS = {
    "dabnet-train": "dabnet.cli",
    "dabnet-data": "dabnet.data_cli",
    "dabnet-run": "dabnet.run.cli",
    "dabnet-export": "export.cli.main",
    "dabnet-bench": "bench.cli.main",
    "application": "tests.faults.application",
    "number-cache": "tests.faults.number_cache",
}
_ALSO_IMPORTED = (
    *("torch", "onnx", "onnxruntime", "numpy", "rich.console", "rich.progress", "pydantic"),
    *("bench.report.text", "bench.report.write", "bench.judgement.compare", "bench.session"),
    *("dabnet.training.loop", "dabnet.checkpoint", "export.onnx_export", "export.inspection"),
    *("export.verify.report", "export.collect", "export.engine.engine", "PIL.Image", "av"),
)
_ADDRESS_SPACE = 12 << 30
"""Bytes beyond those of the libraries: to ask for more is a MemoryError, not the machine's end."""


def serve() -> None:
    for module in (*_ALSO_IMPORTED, *COMMANDS.values(), *_lazily_imported()):
        importlib.import_module(module)
    import torch

    torch.set_num_threads(1)  # a fork has no threads of a pool that its parent started
    one_thread_in_forks()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), file=answers)


def _lazily_imported() -> Iterator[str]:
    """What a command imports when it needs it: another user may not be allowed to read it."""
    for package in ("encodings", "dabnet", "calibration", "export", "bench"):
        path = importlib.import_module(package).__path__
        for found in pkgutil.walk_packages(path, package + "."):
            if not found.name.startswith(("encodings.mbcs", "encodings.oem")):  # of Windows
                yield found.name


def _run(asked: dict[str, Any]) -> dict[str, Any]:
    before = _status("VmHWM"), _status("VmSize")
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(asked, before[1])
    hangs, usage, status = False, None, 0
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - started > asked["seconds"]:
            hangs = True
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            break
        time.sleep(0.005)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "hangs": hangs,
        "seconds": time.monotonic() - started,
        "memory": max(0, usage.ru_maxrss - before[0]) * 1024,
        "orphans": _end_session(child),
    }


def _become(asked: dict[str, Any], size: int) -> None:
    """Be the command, and exit."""
    code = 70
    try:
        os.setsid()
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(_stream(asked["streams"].get(name), asked[name]), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for name, value in asked["environment"].items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        encoding = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")[0]
        sys.stdout = os.fdopen(1, "w", encoding=encoding, errors="strict", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, encoding, "backslashreplace", closefd=False)
        for number, name in ((1, "stdout"), (2, "stderr")):
            if asked["streams"].get(name[3:]) == CLOSED:  # as the interpreter does
                os.close(number)
                setattr(sys, name, None)
        os.chdir(asked["folder"])
        for folder, room in asked["disks"].items():
            _mount(folder, room)
        limits = {"RLIMIT_AS": _ADDRESS_SPACE, "RLIMIT_CORE": 0, **asked["limits"]}
        limits["RLIMIT_AS"] += size * 1024
        for name, most in limits.items():
            resource.setrlimit(getattr(resource, name), (most, most))
        if asked["user"] is not None:
            os.setgroups([])
            os.setgid(asked["user"])
            os.setuid(asked["user"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        words = [os.fsdecode(word.encode("utf-8", "surrogateescape")) for word in asked["words"]]
        sys.argv = words
        try:
            importlib.import_module(COMMANDS[words[0]]).main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        if sys.stdout:
            sys.stdout.flush()
        if sys.stderr:
            sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code & 255)


def _stream(kind: str | None, path: str) -> int:
    if kind == FULL:
        return os.open("/dev/full", os.O_WRONLY)
    if kind == UNREAD:
        reads, writes = os.pipe()
        os.close(reads)
        return writes
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _mount(folder: str, room: int) -> None:
    """Mount a file system of ``room`` bytes for this process alone; of 0, the folder read-only."""
    libc = ctypes.CDLL(None, use_errno=True)
    at, options = os.fsencode(folder), f"size={room}".encode()
    new_namespace, private, bind = 0x20000, 0x44000, 0x1000  # CLONE_NEWNS, MS_REC | MS_PRIVATE
    again = 0x1021  # MS_REMOUNT | MS_BIND | MS_RDONLY
    steps = [libc.unshare(new_namespace), libc.mount(b"none", b"/", None, private, None)]
    if room:
        steps.append(libc.mount(b"tmpfs", at, b"tmpfs", 0, options))
    else:
        steps.append(libc.mount(at, at, None, bind, None))
        steps.append(libc.mount(at, at, None, again, None))
    assert not any(steps), os.strerror(ctypes.get_errno())


def _status(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def in_session(session: int) -> list[int]:
    """Return the processes of a session that run."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                state, _, _, own, *_ = (process / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(own) == session and state != "Z":
                found.append(int(process.name))
    return found


def _end_session(session: int) -> int:
    """Kill what the command left running; return how many processes that were."""
    deadline = time.monotonic() + 3
    while (left := in_session(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        os.kill(process, signal.SIGKILL)
    return len(left)


if __name__ == "__main__":
    serve()
