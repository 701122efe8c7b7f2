"""A process for everything that may crash, leak or hang, so that nothing else is affected.

``Isolated`` starts a fresh interpreter, makes one object there (the service), and calls its methods
from here. The service's module is all that is imported there. Its output goes to a log file: a
library that prints does not spoil the table, and a crash can be explained.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dabnet.console import ProgressBar
from dabnet.errors import DabnetError, first_line
from dabnet.interrupt import end_with_parent
from dabnet.starvation import lack_of

_JOIN_S = 5.0


class ProcessFailed(DabnetError):
    """A call gave no result; the message is one line for the table."""


class Isolated(contextlib.AbstractContextManager["Isolated"]):
    """A service in a process of its own.

    Args:
        service: class or function of a module; called there with ``arguments``, which are pickled.
        log: file that gets the process's output; removed by ``close`` if all went well.
        progress: shows the bars that the service asks for by ``remote_progress``.
        timeout_s: for making the service; see ``call``.

    Raises:
        ProcessFailed: the service could not be made.
    """

    def __init__(
        self,
        name: str,
        service: Callable[..., object],
        arguments: tuple[Any, ...],
        log: Path,
        progress: ProgressBar | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.name, self._log, self._progress = name, log, progress
        self._failed = False
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, str(log), service, arguments), daemon=True, name=name
        )
        self._process.start()
        theirs.close()
        try:
            self._answer("its start", timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    @property
    def alive(self) -> bool:
        return not self._failed and self._process.is_alive()

    def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Return the result of the service's method.

        Raises:
            ProcessFailed: it raised, the process ended, or neither a result nor a step of a
                progress bar came for ``timeout_s`` (which ends the process).
        """
        try:
            self._connection.send((method, arguments))
        except (BrokenPipeError, OSError) as error:
            raise self._death(method) from error
        return self._answer(method, timeout_s)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(0 if self._failed else _JOIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()
        if not self._failed:
            self._log.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, method: str, timeout_s: float | None) -> Any:
        bars: list[tuple[contextlib.ExitStack, Callable[[], None]]] = []
        try:
            while True:
                kind, content = self._receive(method, timeout_s)
                if kind == "error":
                    raise ProcessFailed(content)
                if kind == "result":
                    return content
                if kind == "begin" and self._progress is not None:
                    bar = contextlib.ExitStack()
                    bars.append((bar, bar.enter_context(self._progress(*content))))
                elif kind == "step" and bars:
                    bars[-1][1]()
                elif kind == "end" and bars:
                    bars.pop()[0].close()
        finally:
            for bar, _ in reversed(bars):
                bar.close()

    def _receive(self, method: str, timeout_s: float | None) -> tuple[str, Any]:
        try:
            if not self._connection.poll(timeout_s):
                self._failed = True
                self._process.kill()
                raise ProcessFailed(f"timed out: no sign of life for {timeout_s:g} s in {method}")
            message: tuple[str, Any] = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._death(method) from error
        return message

    def _death(self, method: str) -> ProcessFailed:
        self._failed = True
        self._process.join(_JOIN_S)
        code = self._process.exitcode
        signals = {-number: number.name for number in signal.Signals}
        how = signals.get(code or 0, f"exit code {code}")
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return ProcessFailed(f"its process ended in {method}: {how}{hint}; log: {str(self._log)!r}")


_parent: Connection | None = None  # of a process of ours


@contextmanager
def remote_progress(what: str, total: int, unit: str = "images") -> Iterator[Callable[[], None]]:
    """A ``ProgressBar`` for a service: it is shown by the process that called it."""
    if _parent is None:
        raise RuntimeError("remote_progress outside of an Isolated service")
    send = _parent.send
    send(("begin", (what, total, unit)))
    try:
        yield lambda: send(("step", None))
    finally:
        send(("end", None))


def _serve(
    connection: Connection, log: str, service: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    """Make the service and answer calls, until None comes or the parent is gone."""
    global _parent
    _parent = connection
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    end_with_parent()
    with _log_file(log) as output, contextlib.suppress(EOFError, OSError):
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
        faulthandler.enable(output)
        try:
            served = service(*arguments)
        except Exception as error:  # of any kind: it is the row's reason
            connection.send(("error", _reason(error)))
            return
        connection.send(("result", None))
        while (request := connection.recv()) is not None:
            method, given = request
            try:
                answer = ("result", getattr(served, method)(*given))
            except Exception as error:
                answer = ("error", _reason(error))
            connection.send(answer)


def _log_file(path: str) -> FileIO:
    """Open a log to append to it; one that is a link or a FIFO is an OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    return FileIO(os.open(path, flags, 0o666), "ab")


def _reason(error: Exception) -> str:
    """One line for the table; the traceback goes to the log."""
    if isinstance(error, DabnetError):
        return str(error)
    if lack := lack_of(error):
        return str(lack)
    traceback.print_exc()
    return f"failed: {type(error).__name__}: {first_line(error)}"
