"""In what two runs differ: machine, versions, model, data, settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.judgement.compare_intervals import log_times, ratio_of_runs
from bench.record import REFERENCE, Report
from bench.statistics import verdict

MACHINE = ("processor", "gpu")
"""Facts of ``Report.environment`` that make it the same machine."""
_VARIES = ("load average",)


def same_machine(old: Report, new: Report) -> bool:
    """Whether times of the two can be compared as they are; also the same number of threads."""
    threads = (report.scenario.get("cpu_threads") for report in (old, new))
    return len(set(threads)) == 1 and all(
        old.environment.get(fact) == new.environment.get(fact) for fact in MACHINE
    )


def differences(old: Report, new: Report) -> Iterator[str]:
    """A line for each thing in which the runs differ."""
    for name, report in (("old", old), ("new", new)):
        if not report.complete:
            yield f"the {name} record is of a run that was stopped before its end"
    facts: list[tuple[str, Any, Any]] = [
        ("model", old.model, new.model),
        ("checkpoint", _checkpoint(old), _checkpoint(new)),
        ("data set", f"{old.dataset} {old.split}", f"{new.dataset} {new.split}"),
        ("classes", len(old.classes), len(new.classes)),
    ]
    if old.images != new.images:
        shared = len(set(old.images) & set(new.images))
        theirs = f"{len(new.images)}, of which {shared} are the same"
        facts.append(("images", len(old.images), theirs))
    for title, a, b in (
        ("", old.environment, new.environment),
        ("scenario: ", old.scenario, new.scenario),
    ):
        for key in dict.fromkeys((*a, *b)):
            if key not in _VARIES:
                facts.append((title + key, a.get(key, "unknown"), b.get(key, "unknown")))
    yield from (f"{what}: {a} → {b}" for what, a, b in facts if a != b)
    yield from (f"{s}: only in the old record" for s in old.settings if s not in new.settings)
    yield from (f"{s}: only in the new record" for s in new.settings if s not in old.settings)


def _checkpoint(report: Report) -> str:
    return f"{report.checkpoint} ({report.checkpoint_sha256[:12]})"


def drift(old: Report, new: Report) -> Iterator[str]:
    """Where the reference itself has changed, the machine may have."""
    for setting in old.settings:
        before, after = old.reference(setting), new.reference(setting)
        for timing in before.timings if before and after else ():
            now = after.timing(timing.scope) if after else None
            if now is None or not timing.latency:
                continue
            change = ratio_of_runs(-log_times(timing.turns), -log_times(now.turns))
            if change and verdict(change) != "indistinguishable":
                yield (
                    f"{REFERENCE} itself is {change.value:.2f} times as fast at {setting}"
                    f" ({timing.scope}): if its code is the same, the machine has changed, and"
                    " the normalised ratio tells more than the direct one"
                )
