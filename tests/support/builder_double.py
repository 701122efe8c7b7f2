"""The building half of the TensorRT double, with the traps of the real builders.

An exception in a callback is printed and dropped, as NVIDIA's bindings do it; no plan is built of a
strongly typed network with a precision flag, nor of a dynamic one without a profile.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx

from tests.support.strict_double import Member, keeps

PHASES = (("Building engine", None, 2), ("Timing graph nodes", "Building engine", 3))


def dropped(callback: Callable[[], Any]) -> Any:
    """What the callback returns; None where it fails, and the error on stdout alone."""
    try:
        return callback()
    except BaseException as error:
        print(f"[ERROR] Exception caught: {error}")
        return None


class BuilderBehaviours:
    """The members that do something of the classes which build."""

    def __init__(self, module: ModuleType, scenario: Any) -> None:
        self._module, self._scenario = module, scenario
        note = scenario.calls.append
        fast = property(lambda builder: scenario.fast)
        self.Builder = {
            "__init__": keeps("logger"),
            "platform_has_fast_fp16": fast,
            "platform_has_fast_int8": fast,
            "create_network": self._create_network,
            "create_builder_config": self._create_config,
            "create_optimization_profile": lambda builder: module.IOptimizationProfile(),
            "build_serialized_network": self._build,
        }
        self.IBuilderConfig = {
            "record": lambda name, value: note((name, value)),
            "set_flag": lambda config, flag: note(("set_flag", flag.name)),
            "clear_flag": lambda config, flag: note(("clear_flag", flag.name)),
            "set_preview_feature": lambda config, feature, on: note((feature.name, on)),
            "set_memory_pool_limit": lambda config, pool, size: note((pool.name, size)),
            "set_compute_capability": self._set_capability,
            "add_optimization_profile": self._add_profile,
            "set_calibration_profile": self._set_calibration_profile,
            "create_timing_cache": self._create_timing_cache,
            "set_timing_cache": self._set_timing_cache,
            "get_timing_cache": lambda config: config._timings,
        }
        self.IOptimizationProfile = {"set_shape": self._set_shape}
        self.ITimingCache = {"serialize": lambda cache: memoryview(cache._content)}
        self.OnnxParser = {
            "__init__": keeps("network", "logger"),
            "parse": self._parse,
            "num_errors": property(lambda parser: len(scenario.parser_errors)),
            "get_error": lambda parser, i: SimpleNamespace(desc=lambda: scenario.parser_errors[i]),
        }

    def _create_network(self, builder: Any, flags: int = 0) -> Any:
        known = vars(self._module.NetworkDefinitionCreationFlag).values()
        members = [flag for flag in known if isinstance(flag, Member)]
        names = {flag.name for flag in members if flags & (1 << int(flag))}
        self._scenario.calls.append(("create_network", names))
        network = self._module.INetworkDefinition()
        network._flags = names
        return network

    def _create_config(self, builder: Any) -> Any:
        config = self._module.IBuilderConfig()
        object.__setattr__(config, "_logger", builder._logger)
        return config

    def _parse(self, parser: Any, content: bytes, path: str) -> bool:
        (tensor,) = onnx.load_from_string(content).graph.input
        sides = tensor.type.tensor_type.shape.dim
        shape = tuple(-1 if side.dim_param else side.dim_value for side in sides)
        parser._network._shape = shape
        return not self._scenario.parser_errors

    def _build(self, builder: Any, network: Any, config: Any) -> bytes | None:
        self._scenario.during()
        memory = self._scenario.memory
        assert memory is None or memory.depth, "another GPU may be current in this thread"
        for severity, text in self._scenario.log:
            self._log(builder, severity, text)
        if fault := self._fault(network):
            self._log(builder, "ERROR", fault)
            return None
        if not self._report_progress(vars(config).get("progress_monitor")):
            self._log(builder, "ERROR", "Error Code 7: BuildCanceled (Build canceled by user)")
            return None
        self._calibrate(vars(config).get("int8_calibrator"), network)
        if timings := vars(config).get("_timings"):
            timings._content += b" +build"
        return self._scenario.plan

    def _log(self, builder: Any, severity: str, text: str) -> None:
        builder._logger.log(getattr(self._module.ILogger.Severity, severity), text)

    def _fault(self, network: Any) -> str:
        flags = self._scenario.called("set_flag")
        if "STRONGLY_TYPED" in network._flags and {"FP16", "INT8"} & set(flags):
            return "Error Code 4: precision flags are not allowed in a strongly typed network"
        if -1 in network._shape and not self._scenario.called("add_optimization_profile"):
            return "Error Code 4: dynamic inputs, but no optimization profile has been defined"
        return ""

    def _report_progress(self, monitor: Any) -> bool:
        """Report PHASES, the later ones within the first; whether to go on."""
        if monitor is None:
            return True
        go_on = True
        for name, parent, steps in PHASES:
            dropped(lambda: monitor.phase_start(name, parent, steps))  # noqa: B023
            for step in range(steps):
                go_on = go_on and bool(dropped(lambda: monitor.step_complete(name, step)))  # noqa: B023
        for name, _, _ in reversed(PHASES):
            dropped(lambda: monitor.phase_finish(name))  # noqa: B023
        return go_on

    def _calibrate(self, calibrator: Any, network: Any) -> None:
        """Read all batches, unless the cache is one of this version and calibrator."""
        if calibrator is None:
            return
        scenario = self._scenario
        assert "INT8" in scenario.called("set_flag")
        assert "STRONGLY_TYPED" not in network._flags
        entropy = isinstance(calibrator, self._module.IInt8EntropyCalibrator2)
        kind = "EntropyCalibration2" if entropy else "MinMaxCalibration"
        header = f"TRT-{self._module.__version__}-{kind}\n".encode()
        stored = dropped(calibrator.read_calibration_cache)
        if stored is not None and bytes(stored).startswith(header):
            return
        profiles = scenario.called("set_calibration_profile")
        shape = profiles[0][1] if profiles else network._shape
        assert dropped(calibrator.get_batch_size) == shape[0]
        while addresses := dropped(lambda: calibrator.get_batch(["image"])):
            # TensorRT reads float32, whatever the type of the network's input.
            content = scenario.memory.device[addresses[0]].view(np.float32)
            scenario.batches.append(content.reshape(shape).copy())
        # The memory is the builder's: it is overwritten after the call.
        ranges = bytearray(header + f"image: {len(scenario.batches):08x}\n".encode())
        dropped(lambda: calibrator.write_calibration_cache(memoryview(ranges)))
        ranges[:] = b"\0" * len(ranges)

    def _set_capability(self, config: Any, capability: Member, index: int) -> bool:
        assert 0 <= index < config.num_compute_capabilities
        self._scenario.calls.append(("set_compute_capability", capability.name))
        return True

    def _set_shape(self, profile: Any, name: str, *shapes: tuple[int, ...]) -> None:
        assert len(shapes) == 3
        assert np.all(np.diff(np.array(shapes), axis=0) >= 0)
        profile._shapes = (name, shapes)

    def _add_profile(self, config: Any, profile: Any) -> int:
        self._scenario.calls.append(("add_optimization_profile", profile._shapes))
        return self._scenario.profile_index

    def _set_calibration_profile(self, config: Any, profile: Any) -> bool:
        self._scenario.calls.append(("set_calibration_profile", profile._shapes[1]))
        return True

    def _create_timing_cache(self, config: Any, content: bytes) -> Any:
        header = f"\0timings of {self._module.__version__}".encode()
        cache = self._module.ITimingCache()
        cache._content = content or header
        if not cache._content.startswith(header):
            cache._content = header
            self._log(config, "ERROR", "Serialization assertion magicTagRead == kMAGIC_TAG failed")
            self._log(config, "WARNING", "The timing cache will not be used!")
        return cache

    def _set_timing_cache(self, config: Any, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._scenario.calls.append(("set_timing_cache", cache._content))
        if b"another GPU" in cache._content:
            return False
        object.__setattr__(config, "_timings", cache)
        return True
