"""Every case of every family: a result, or a refusal in one line; nothing lost.

``make test`` runs a part of them, chosen by FAULT_SEED (0); ``make test-faults`` runs all.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.case import Case
from tests.faults.families import FAMILIES
from tests.faults.originals import Originals
from tests.faults.verdict import Result, snapshot, verdict
from tests.support import ROOT
from tests.support.processes import environment

PER_FAMILY = 2
"""Cases of a family in ``make test``."""

CASES = [case for family in FAMILIES for case in family.cases()]


def _quick() -> set[str]:
    families = defaultdict(list)
    for case in CASES:
        families[case.family].append(case.id)
    chooser = random.Random(os.environ.get("FAULT_SEED", "0"))
    return {
        name
        for names in families.values()
        for name in chooser.sample(names, min(PER_FAMILY, len(names)))
    }


QUICK = _quick()
PARAMETERS = [
    pytest.param(case, id=case.id, marks=() if case.id in QUICK else pytest.mark.slow)
    for case in CASES
]


def test_no_two_cases_have_one_name() -> None:
    names = [case.id for case in CASES]
    assert len(names) == len(set(names))


def test_the_page_on_reliability_counts_them() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| ([a-z ]+) \| (\d+) \|$", page, re.M))
    counted = Counter(case.family for case in CASES)
    assert {name: int(count) for name, count in stated.items()} == {
        **counted,
        "all": len(CASES),
    }


class Server:
    """The process of ``tests.faults.server``; another one is started if it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, case: Case, words: list[str], folder: Path, said: Path) -> Result:
        asked = {
            "words": words,
            "folder": str(folder),
            "out": str(said / "out"),
            "err": str(said / "err"),
            "seconds": case.seconds,
            "environment": dict(case.environment),
            "limits": dict(case.limits),
            "streams": dict(case.streams),
            "disks": dict(case.disks),
            "user": case.user,
        }
        answer = self._ask(json.dumps(asked))
        said_lines = ((said / name) for name in ("out", "err"))
        out, err = (x.read_bytes()[-400_000:].decode("utf-8", "replace") for x in said_lines)
        return Result(**answer, out=out, err=err)

    def _ask(self, line: str) -> dict[str, float]:
        if self._process is None or self._process.poll() is not None:
            self._process = self._started()
        assert self._process.stdin
        assert self._process.stdout
        print(line, file=self._process.stdin, flush=True)
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer

    def _started(self) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "tests.faults.server"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        # It has no terminal, and colours are not asked for.
        known = environment(COLUMNS="200")
        known.pop("FORCE_COLOR", None)
        process = subprocess.Popen(words, env=known, text=True, **pipes)  # type: ignore[call-overload]
        assert json.loads(process.stdout.readline()) == {"ready": True}
        return process

    def close(self) -> None:
        if self._process and self._process.stdin:
            self._process.stdin.close()
            self._process.wait(30)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    served = Server()
    yield served
    served.close()


@pytest.mark.parametrize("case", PARAMETERS)
def test_fault(case: Case, originals: Originals, server: Server, tmp_path: Path) -> None:
    if (case.user is not None or case.disks) and os.geteuid() != 0:
        pytest.skip("only root may run a command as another user, or mount a disk")
    folder, said = tmp_path / "case", tmp_path / "said"
    folder.mkdir()
    said.mkdir()
    for name in ("out", "err"):
        (said / name).touch()
    words = [str(word) for word in case.lay(folder, originals)]
    before = snapshot(folder)
    result = server.run(case, words, folder, said)
    assert not verdict(case, result, before, folder)
