"""Energy of the processor's packages, as the kernel reads it from the processor (RAPL).

https://docs.kernel.org/power/powercap/powercap.html. A package holds cores, caches and memory
controllers, also idle ones and those of other processes; memory and the rest of the machine are not
in it. Since Linux 5.10 only root reads the counters, unless the machine's owner allows more; most
virtual machines have none.
"""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class PackageEnergy:
    """Joules of all packages since its creation."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._before = _microjoules(powercap)

    def spent_j(self) -> float | None:
        """None if the counters cannot be read. Handles one wrap of a counter."""
        spent = 0
        for zone, (before, most) in self._before.items():
            now = _number(zone / "energy_uj")
            if now is None:
                return None
            spent += now - before if now >= before else now - before + most
        return spent / 1e6 if self._before else None


def _microjoules(powercap: Path) -> dict[Path, tuple[int, int]]:
    """Zone of each package → its counter and the counter's range; empty unless all are known."""
    found = {}
    for zone in powercap.glob("intel-rapl:*"):  # AMD's processors have the same name
        if not _text(zone / "name").startswith("package"):  # a part of one, or the whole platform
            continue
        counter, most = _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")
        if counter is None or most is None:
            return {}
        found[zone] = (counter, most)
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdecimal() and text.isascii() else None
