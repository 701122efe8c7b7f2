"""Real processes that answer, raise, crash, hang and print."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.isolation import Isolated, ProcessFailed, remote_progress
from tests.support.services import Service


@pytest.fixture(autouse=True)
def found_by_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process can import, its children can."""
    import sys

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))


def test_a_service_lives_in_its_own_process_and_keeps_its_state(tmp_path: Path) -> None:
    with Isolated("one", Service, ("given",), tmp_path / "one.log") as one:
        assert one.call("count") == (1, one.pid, "given")
        assert one.call("count") == (2, one.pid, "given")
        assert one.pid != os.getpid() and one.alive
        assert one.call("modules") == []  # nothing of ours came along
    assert not one.alive
    assert list(tmp_path.iterdir()) == []  # the log of a process without trouble is removed


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("crash", "its process ended in crash: SIGSEGV"),
        ("killed", "its process ended in killed: SIGKILL (out of memory?)"),
        ("leave", "its process ended in leave: exit code 7"),
    ],
)
def test_a_dead_process_is_a_reason(tmp_path: Path, method: str, expected: str) -> None:
    log = tmp_path / "one.log"
    with Isolated("one", Service, (), log) as one:
        one.call("loud")
        with pytest.raises(ProcessFailed) as error:
            one.call(method)
        assert str(error.value).startswith(expected) and str(log) in str(error.value)
        assert not one.alive
        with pytest.raises(ProcessFailed, match="ended"):
            one.call("count")
    assert "a library prints" in log.read_text() and "and another one" in log.read_text()
    if method == "crash":
        assert "in crash" in log.read_text()  # where it was


def test_an_error_is_one_line_and_the_process_goes_on(tmp_path: Path) -> None:
    with Isolated("one", Service, (), tmp_path / "one.log") as one:
        with pytest.raises(ProcessFailed, match="^no such kernel$"):
            one.call("refuse")
        with pytest.raises(ProcessFailed, match="^failed: ZeroDivisionError: a fault of the back"):
            one.call("fault")
        with pytest.raises(ProcessFailed, match="AttributeError"):
            one.call("no_such_method")
        assert one.call("count")[0] == 1


def test_a_service_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="nothing to run on; expected a device; buy one"):
        Isolated("one", Service, ("refuse",), tmp_path / "one.log")


def test_a_hanging_call_is_ended(tmp_path: Path) -> None:
    with Isolated("one", Service, (), tmp_path / "one.log") as one:
        assert one.call("hang", 0.1, timeout_s=60.0) == "late"
        with pytest.raises(ProcessFailed, match=r"no sign of life for 0\.3 s in hang"):
            one.call("hang", 60.0, timeout_s=0.3)
        assert not one.alive


def test_steps_are_shown_here_and_are_signs_of_life(tmp_path: Path) -> None:
    seen: list[object] = []

    @contextmanager
    def bar(*what: object) -> Iterator[Callable[[], None]]:
        seen.append(what)
        yield lambda: seen.append("step")
        seen.append("end")

    with Isolated("one", Service, (), tmp_path / "one.log", bar) as one:
        assert one.call("steps", 4, 0.3, timeout_s=0.9) == "counted"
    assert seen == [("counting", 4, "sheep"), *["step"] * 4, "end"]
    with Isolated("one", Service, (), tmp_path / "one.log") as one:
        assert one.call("steps", 2) == "counted"  # nobody looks
    with pytest.raises(RuntimeError, match="outside"), remote_progress("here", 1):
        pass


def test_ctrl_c_is_for_the_parent(tmp_path: Path) -> None:
    with Isolated("one", Service, (), tmp_path / "one.log") as one:
        os.kill(one.pid, signal.SIGINT)
        assert one.call("count")[0] == 1
