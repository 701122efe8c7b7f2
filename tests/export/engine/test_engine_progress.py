"""Phases of a build, Ctrl-C during one, and callbacks that fail."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from export.engine.engine import build_engine
from export.engine.progress import OpenPhases, Phases, interruptible, phase_bars
from export.engine.spec import BuildSpec
from tests.support.builder_double import PHASES
from tests.support.contract_graph import write_contract
from tests.support.engine_builds import build, nothing_was_written, scenario_of
from tests.support.processes import run_python
from tests.support.tensorrt_double import VERSIONS

REPORTING = [version for version in VERSIONS if version != "8.6.1"]


class Recorded(Phases):
    """Phases that keep what they were told, and do something at the start of one of them."""

    def __init__(self, at: str = "", action: object = None) -> None:
        self.events: list[tuple[object, ...]] = []
        self._at, self._action = at, action

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self.events.append(("start", name, parent, steps))
        if name == self._at:
            self._action()  # type: ignore[operator]

    def step(self, name: str, done: int) -> None:
        self.events.append(("step", name, done))

    def finish(self, name: str) -> None:
        self.events.append(("finish", name))

    def opener(self) -> OpenPhases:
        @contextmanager
        def opened() -> Iterator[Phases]:
            yield self

        return opened


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def fail() -> None:
    raise ZeroDivisionError("in a callback")


@pytest.mark.parametrize("version", REPORTING)
def test_phases_are_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str) -> None:
    shown = Recorded()
    spec, scenario = BuildSpec("fp32"), scenario_of("fp32")
    build(monkeypatch, tmp_path, version, spec, scenario, phases=shown.opener())
    expected: list[tuple[object, ...]] = []
    for name, parent, steps in PHASES:
        expected.append(("start", name, parent, steps))
        expected += [("step", name, done) for done in range(1, steps + 1)]
    expected += [("finish", name) for name, _, _ in reversed(PHASES)]
    assert shown.events == expected


def test_tensorrt_8_says_that_it_reports_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown, said = Recorded(), []
    opener = shown.opener()
    build(
        *(monkeypatch, tmp_path, "8.6.1", BuildSpec("fp32"), scenario_of("fp32")),
        progress=said.append,
        phases=opener,
    )
    assert shown.events == []
    assert "tensorrt 8.6.1 does not report its progress, and cannot be stopped half-way" in said
    assert said[1] == "tensorrt 8.6.1 reads contract-fp32-int32.onnx"


@pytest.mark.parametrize("version", REPORTING)
@pytest.mark.parametrize(("action", "error"), [(press_ctrl_c, KeyboardInterrupt), (fail, None)])
def test_a_build_that_is_stopped_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, action: object, error: type
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    shown, said = Recorded("Building engine", action), []
    with pytest.raises(error or ZeroDivisionError):
        build(
            *(monkeypatch, tmp_path, version, BuildSpec("fp32"), scenario_of("fp32")),
            progress=said.append,
            phases=shown.opener(),
        )
    assert nothing_was_written(tmp_path)
    assert ("step", "Timing graph nodes", 3) not in shown.events
    assert signal.getsignal(signal.SIGINT) is handler
    assert any("stops the build" in text for text in said) is (action is press_ctrl_c)


@pytest.mark.parametrize(("action", "error"), [(press_ctrl_c, KeyboardInterrupt), (fail, None)])
def test_rtx_stops_a_real_build(tmp_path: Path, action: object, error: type) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = write_contract(tmp_path)
    shown = Recorded("Optimizing graph", action)
    with pytest.raises(error or ZeroDivisionError):
        build_engine(source, tmp_path / "m", BuildSpec("fp32", "sm86"), phases=shown.opener())
    assert nothing_was_written(tmp_path)
    names = [event[1] for event in shown.events if event[0] == "start"]
    assert names[0] == "Building engine"
    assert "Computing profile costs" not in names  # it comes later, in a build that goes on
    build_engine(source, tmp_path / "m", BuildSpec("fp32", "sm86"))  # and nothing is left behind


def test_ctrl_c_where_the_builder_cannot_be_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """TensorRT 8 builds to its end; then the request holds, and nothing is written."""
    scenario = scenario_of("fp32", during=press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        build(monkeypatch, tmp_path, "8.6.1", BuildSpec("fp32"), scenario)
    assert nothing_was_written(tmp_path)


def test_a_second_ctrl_c_ends_the_process() -> None:
    program = (
        "import os, signal\n"
        "from export.engine.progress import interruptible\n"
        "with interruptible(print):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('goes on', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('not reached')\n"
    )
    result = run_python(program)
    assert result.returncode == -signal.SIGINT
    assert result.stdout.splitlines()[-1] == "goes on"


def test_another_error_does_not_hide_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible(lambda _: None):
        press_ctrl_c()
        raise ValueError("no engine")


def test_bars_of_nested_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr("dabnet.console.console", lambda: terminal)
    with phase_bars() as phases:
        bars = phases._bars  # type: ignore[attr-defined]
        phases.start("Building engine", None, 6)
        for steps, done in ((64, 20), (3, 1)):  # a name may come again
            phases.start("Timing graph nodes", "Building engine", steps)
            phases.step("Timing graph nodes", done)
            assert [(task.description, task.completed, task.total) for task in bars.tasks] == [
                ("Building engine", 0, 6),
                ("  Timing graph nodes", done, steps),
            ]
            phases.finish("Timing graph nodes")
        phases.step("Building engine", 5)
    assert "5/6" in screen.getvalue()
