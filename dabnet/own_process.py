"""A process of its own for a command whose libraries may crash on what they are given."""

from __future__ import annotations

import os
import signal
import sys

from dabnet.interrupt import EXIT_INTERRUPTED, end_with_parent

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
EXIT_CRASHED = 2  # as for input that cannot be used


def continue_in_child() -> None:
    """Return in a child of this process, which waits for it and ends as it does.

    A child that a library's crash ended becomes one line on stderr, and exit code 2. Signals that
    end a command are passed on. Call it before threads start and a GPU is opened. Where no process
    can be made, this one goes on alone.
    """
    watched = {*_FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        child = os.fork()
    except OSError:  # no more processes are allowed
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    if child == 0:
        end_with_parent()
        os.setpgid(0, 0)  # Ctrl-C comes to the parent alone, which passes it on once
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    asked, ignored = (
        False,
        {number for number in _FORWARDED if signal.getsignal(number) is signal.SIG_IGN},
    )
    while True:
        number = signal.sigwait(watched)
        if number != signal.SIGCHLD:
            if number not in ignored:
                os.kill(child, number)
                asked = True
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            _end_as(os.waitstatus_to_exitcode(status), asked)


def _end_as(code: int, asked: bool) -> None:
    """Exit with the code of a child, minus its signal; ``asked``: to end, which is no crash."""
    if -code in _CRASHES and asked:
        print("interrupted", file=sys.stderr, flush=True)
        code = EXIT_INTERRUPTED
    elif -code in _CRASHES:
        name = signal.Signals(-code).name
        print(
            f"error: a library crashed on this input ({name}); expected a file that it can read;"
            " export the file again, or update the library",
            file=sys.stderr,
            flush=True,
        )
        code = EXIT_CRASHED
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.kill(os.getpid(), -code)
    os._exit(code)
