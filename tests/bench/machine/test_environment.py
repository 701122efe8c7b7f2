"""Facts of the machine: those of the GPU that was asked for, and those by which a run continues."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

import bench.machine.environment
from bench.machine.environment import GPU_SETTINGS, describe_environment, lasting_facts
from dabnet.errors import BackendUnavailable
from tests.support.nvml_double import NvmlDouble


def card(index: int) -> SimpleNamespace:
    """The card of that number in CUDA's order; the other way round on the bus."""
    return SimpleNamespace(
        name=f"card {index}",
        compute_capability=(9, 0),
        driver="580.95.05 (CUDA 13.0)",
        pci_bus_id=f"0000:{0x65 - index:02x}:00.0",
        close=lambda: None,
    )


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> NvmlDouble:
    double = NvmlDouble({"nvmlDeviceGetPersistenceMode": 1}, pci="00000000:64:00.0")
    monkeypatch.setitem(sys.modules, "pynvml", double)  # type: ignore[arg-type]
    monkeypatch.setattr(bench.machine.environment, "open_device_memory", card)
    return double


def test_settings_are_those_of_the_card_that_computes(nvml: NvmlDouble) -> None:
    facts = describe_environment(1)
    assert facts["gpu"] == "card 1 (compute capability 9.0), driver 580.95.05 (CUDA 13.0)"
    assert facts[GPU_SETTINGS] == "persistence mode on"
    assert GPU_SETTINGS not in describe_environment(0)  # at an address that NVML does not know
    nvml.answers = {}
    assert GPU_SETTINGS not in describe_environment(1)
    assert nvml.open == 0


def test_a_run_continues_with_other_settings_of_the_same_card(nvml: NvmlDouble) -> None:
    before = describe_environment(1)
    nvml.answers["nvmlDeviceGetPersistenceMode"] = 0
    after = describe_environment(1)
    assert before[GPU_SETTINGS] != after[GPU_SETTINGS]
    assert lasting_facts(before) == lasting_facts(after)
    assert lasting_facts(before) != lasting_facts(describe_environment(0))


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(index: int) -> None:
        raise BackendUnavailable("no GPU")

    monkeypatch.setattr(bench.machine.environment, "open_device_memory", none)
    facts = describe_environment()
    assert facts["gpu"] == "none" and GPU_SETTINGS not in facts
