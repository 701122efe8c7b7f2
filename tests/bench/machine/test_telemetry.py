"""Telemetry of the processor: a tree of files as Linux has it, and this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import bench.machine.telemetry
from bench.machine.telemetry import Monitor, cpu_mhz, marks, resolution_cores
from bench.record import Telemetry

WORKER, OTHER = 41, 42


class Machine:
    """/proc and /sys of a machine of two cores whose clock the test turns."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proc, self.cpus, self.now = folder / "proc", folder / "cpu", 0.0
        self.powercap = folder / "powercap"
        self.proc.mkdir()
        self.cpus.mkdir()
        monkeypatch.setattr(bench.machine.telemetry.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(bench.machine.telemetry.time, "process_time", lambda: self.own)
        self.own = 0.0
        self.set(user=100, idle=900)

    def set(self, user: int, idle: int) -> None:
        """Ticks so far of all cores; the fields are user nice system idle iowait irq softirq …."""
        line = f"cpu  {user} 7 20 {idle} 55 1 2 3 0 0"
        (self.proc / "stat").write_text(f"{line}\ncpu0 1 1 1 1 1 1 1 1 0 0\nintr 5\n")

    def process(self, pid: int, user: int, system: int) -> None:
        """Ticks of a process whose name has blanks and brackets."""
        (self.proc / str(pid)).mkdir(exist_ok=True)
        before = "S 1 1 1 0 -1 4194304 10 0 0 0"
        text = f"{pid} (a) b (c) {before} {user} {system} 0 0 20 0 1 0"
        (self.proc / str(pid) / "stat").write_text(text)

    def monitor(self) -> Monitor:
        return Monitor(None, self.proc, self.cpus, self.powercap)

    def package(self, zone: str, name: str, microjoules: int) -> None:
        """A counter of energy that begins anew after 1,000 J."""
        folder = self.powercap / zone
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in (("name", name), ("max_energy_range_uj", 10**9)):
            (folder / file).write_text(f"{text}\n")
        (folder / "energy_uj").write_text(f"{microjoules}\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_foreign_is_what_neither_the_worker_nor_this_process_used(machine: Machine) -> None:
    machine.process(WORKER, 500, 50)
    monitor = machine.monitor()
    monitor.start([WORKER, OTHER])
    machine.now, machine.own = 2.0, 0.1
    machine.set(user=100 + 250, idle=900 + 150)
    machine.process(WORKER, 500 + 150, 50 + 10)
    # 2.5 s busy; the worker says 1.2 and /proc, which saw its first call too, 1.6; this one 0.1.
    assert monitor.stop(1.2).foreign_cores == pytest.approx((2.5 - 1.6 - 0.1) / 2)


def test_without_proc_of_the_worker_its_own_word_counts(machine: Machine) -> None:
    monitor = machine.monitor()
    monitor.start([WORKER])
    machine.now = 1.0
    machine.set(user=100 + 90, idle=900 + 110)
    assert monitor.stop(0.5).foreign_cores == pytest.approx(0.4)
    monitor.start([WORKER])
    machine.now = 2.0
    assert monitor.stop(0.5).foreign_cores == 0.0  # ticks that came late are no negative load


def test_nothing_is_known_without_proc(tmp_path: Path) -> None:
    monitor = Monitor(None, tmp_path / "proc", tmp_path / "cpu", tmp_path / "powercap")
    monitor.start([1])
    assert monitor.stop(0.1) == Telemetry()
    assert monitor.device_bytes(1) is None
    monitor.close()
    (tmp_path / "proc").mkdir()
    for text in ("", "cpu  a b\n"):
        (tmp_path / "proc" / "stat").write_text(text)
        monitor.start([])
        assert monitor.stop(0.0).foreign_cores is None


def test_clock_of_the_cores(machine: Machine) -> None:
    assert cpu_mhz(machine.proc, machine.cpus) is None
    (machine.proc / "cpuinfo").write_text("cpu MHz\t\t: 2000.0\nflags: a\ncpu MHz\t\t: 3000.0\n")
    assert cpu_mhz(machine.proc, machine.cpus) == 2500.0
    for number in range(40):
        folder = machine.cpus / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text("3600000\n")
    (machine.cpus / "cpufreq").mkdir()
    assert machine.monitor().stop(0.0).cpu_mhz == 3600.0
    (machine.cpus / "cpu0" / "cpufreq" / "scaling_cur_freq").write_text("<unknown>\n")
    assert cpu_mhz(machine.proc, machine.cpus) is None


def test_energy_is_that_of_all_packages(machine: Machine) -> None:
    machine.package("intel-rapl:0", "package-0", 5_000_000)
    machine.package("intel-rapl:1", "package-1", 999_000_000)
    machine.package("intel-rapl:0:0", "core", 0)
    machine.package("intel-rapl:2", "psys", 0)  # of the whole platform, packages included
    monitor = machine.monitor()
    monitor.start([])
    for zone, name, spent in (("0", "package-0", 8_500_000), ("1", "package-1", 2_000_000)):
        machine.package(f"intel-rapl:{zone}", name, spent)
    for zone, name in (("0:0", "core"), ("2", "psys")):
        machine.package(f"intel-rapl:{zone}", name, 7_000_000)
    assert monitor.stop(0.0).cpu_energy_j == pytest.approx(3.5 + 3.0)
    # A counter that nobody may read: nothing is told, and not what the other one says.
    monitor.start([])
    (machine.powercap / "intel-rapl:1" / "energy_uj").unlink()
    assert monitor.stop(0.0).cpu_energy_j is None
    monitor.start([])
    assert monitor.stop(0.0).cpu_energy_j is None


def test_a_mark_needs_more_than_the_counters_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.machine.telemetry.os, "cpu_count", lambda: 8)
    assert resolution_cores(0.2) == pytest.approx(0.5)
    assert marks(Telemetry(foreign_cores=0.5), 0.2) == ()
    assert marks(Telemetry(foreign_cores=0.51), 0.2) == ("disturbed",)
    assert marks(Telemetry(foreign_cores=0.1), 2.0) == ("disturbed",)
    assert marks(Telemetry(foreign_cores=0.09), 60.0) == ()
    assert marks(Telemetry(), 1.0) == ()
    hot = Telemetry(foreign_cores=3.0, throttled=("HwSlowdown",))
    assert marks(hot, 1.0) == ("disturbed", "throttled")


@pytest.mark.parametrize(("ours", "cores"), [(False, 0.4), (True, 0.0)])
def test_a_busy_process_is_foreign_unless_it_is_ours(
    machine: Machine, ours: bool, cores: float
) -> None:
    machine.process(OTHER, 500, 50)
    monitor = machine.monitor()
    monitor.start([OTHER] if ours else [])
    machine.now = 2.0
    machine.set(user=100 + 80, idle=900 + 320)
    machine.process(OTHER, 500 + 70, 50 + 10)
    assert monitor.stop(0.0).foreign_cores == pytest.approx(cores)


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="needs Linux")
def test_the_files_of_this_machine_are_read() -> None:
    monitor = Monitor(None)
    monitor.start([os.getpid()])
    assert monitor.stop(0.0).foreign_cores is not None
    assert os.getpid() in monitor._seconds_of([os.getpid()])
