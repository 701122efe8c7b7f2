"""The rows: their names, what each is made of, and why some are not run."""

from __future__ import annotations

import dataclasses
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import bench.backends.onnxruntime_backend as onnxruntime_backend
import bench.backends.openvino_backend as openvino_backend
import bench.backends.tensorrt_backend as tensorrt_backend
from bench.backends import backends, cache, row_names
from bench.backends.base import Backend, Recipe
from bench.backends.cache import Workshop
from bench.isolation import Isolated
from bench.measure.timer import Timer
from bench.record import REFERENCE, Setting
from dabnet.device import Device
from dabnet.errors import BackendUnavailable, InputError
from dabnet.given import VOID, Given
from dabnet.models import build_model
from dabnet.runtime.ort import gpu as onnxruntime_gpu
from dabnet.runtime.ort.providers import OF_TENSORRT, RTX_PLUGIN
from export.spec import ExportSpec
from tests.support import ROOT
from tests.support.contract_graph import HEIGHT, WIDTH, write_contract
from tests.support.device_double import FakeDeviceMemory
from tests.support.int8_graph import write_int8
from tests.support.onnxruntime_double import CudaScenario, make_double, make_plugin
from tests.support.seeded_checkpoint import SIZE, no_bar, noise, write_checkpoint

ort = pytest.importorskip("onnxruntime")

SETTING = Setting(SIZE)
DOC = ROOT / "docs" / "bench_backends.md"
EXACT = "exact Q/DQ in float32"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("workshop")
    spec = ExportSpec(SIZE, calibration_images=2, check_images=1, minimum_agreement=0.5)
    path = write_checkpoint(folder)
    return Workshop(path, Given(), None, spec, folder, Device(), 1, no_bar)


def prepared(row: str, workshop: Workshop, setting: Setting = SETTING) -> Recipe:
    backend, _, variant = row.partition("-")
    return backends()[backend].prepare(variant, setting, workshop)


def reason(row: str, workshop: Workshop, setting: Setting = SETTING) -> str:
    with pytest.raises(BackendUnavailable) as caught:
        prepared(row, workshop, setting)
    return str(caught.value)


def test_every_row_is_documented_and_is_called_as_it_should_be() -> None:
    known = backends()
    everything = row_names(["all"], known, "cpu")
    assert everything[0] == REFERENCE and len(set(everything)) == len(everything)
    assert all("-" not in name for name in known)
    text = DOC.read_text(encoding="utf-8")
    for backend in known.values():
        assert f"`{backend.name}-" in text
        for variant in backend.variants:
            assert f"-{variant.split('-')[-1]}`" in text, variant
        for device in ("cpu", "cuda"):
            assert set(backend.by_default(device)) <= set(backend.variants)
    assert "pytorch-paper" in row_names([], known, "cuda")
    assert row_names([], known, "cpu")[:3] == (
        *("pytorch-fp32", "onnxruntime-fp32", "openvino-fp32"),
    )
    assert "tensorrt-int8-fp32" in row_names([], known, "cuda")


@pytest.mark.parametrize(
    ("offered", "fast", "rows", "rest"),
    [
        (["FP32", "INT8", "BIN"], 0.5, ["fp32", "int8"], "fp32"),
        (["FP32", "FP16", "BF16", "INT8"], 0.5, ["fp32", "bf16", "int8"], "bf16"),
        (["FP32", "FP16", "BF16", "INT8"], 2, ["fp32", "bf16", "int8"], "fp32"),
        (["FP32"], 0.5, ["fp32"], None),
    ],
)
def test_openvinos_rows_are_those_that_the_processor_multiplies(
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offered: list[str],
    fast: float,
    rows: list[str],
    rest: str | None,
) -> None:
    """bfloat16 also beside int8, if that is faster; a file for half precision is safe for it."""
    core = SimpleNamespace(get_property=lambda *_: offered)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))
    known, asked = backends()["openvino"], []

    def onnx_of(_: Workshop, setting: Setting, precision: str, target: str) -> Path:
        asked.append((precision, target))
        return write_contract(tmp_path, precision)

    monkeypatch.setattr(Workshop, "onnx", onnx_of)
    monkeypatch.setattr(openvino_backend, "call_s", lambda a: {"bf16": fast, "fp32": 1}[a["rest"]])
    assert list(known.by_default("cpu")) == rows and known.by_default("cuda") == ()
    assert known.prepare("fp32", SETTING, workshop).arguments["rest"] == "fp32"
    assert asked.pop() == ("fp32", "portable")
    if rest is None:
        assert "not in int8" in reason("openvino-int8", workshop)
    else:
        recipe = known.prepare("int8", SETTING, workshop)
        assert recipe.arguments["rest"] == rest
        target = "openvino-half" if "BF16" in offered else "portable"
        assert asked.pop() == ("int8", target)
    if "FP16" in offered:
        known.prepare("fp16", SETTING, workshop)
        assert asked.pop() == ("fp32", "openvino-half")


def test_openvino_that_is_not_installed_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert backends()["openvino"].by_default("cpu") == ("fp32",)


@pytest.mark.parametrize(
    "row", ["pytorch-fp32", "pytorch-channels-last", "onnxruntime-fp32", "openvino-fp32"]
)
def test_rows_give_the_reference_masks(row: str, workshop: Workshop) -> None:
    if row.startswith("openvino"):
        pytest.importorskip("openvino")
    setting = Setting(SIZE, batch=2)
    images = noise((2, *SIZE, 3), 1)
    reference = prepared(REFERENCE, workshop, setting).opened()
    recipe = prepared(row, workshop, setting)
    runner = pickle.loads(pickle.dumps(recipe)).opened()
    assert runner.info.shape == (2, *SIZE, 3)
    assert (runner.infer(images) == reference.infer(images)).mean() > 0.999
    assert recipe.exact is None and recipe.artifact.is_file()
    graph = onnx.load(str(recipe.graph))
    assert [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == [2, *SIZE, 3]


@pytest.mark.parametrize("row", ["onnxruntime-fp32", "openvino-fp32"])
def test_rows_of_both_outputs(row: str, workshop: Workshop) -> None:
    """What is timed gives both; masks and confidences are PyTorch's."""
    if row.startswith("openvino"):
        pytest.importorskip("openvino")
    both = replace(workshop, spec=replace(workshop.spec, head="mask+confidence"))
    images = noise((1, *SIZE, 3), 1)
    runners = [prepared(name, both).opened() for name in (REFERENCE, row)]
    assert {runner.info.head for runner in runners} == {"mask+confidence"}
    expected, found = (runner.infer_with_confidence(images) for runner in runners)
    assert (found.mask == expected.mask).mean() > 0.999
    assert np.abs(found.confidence.astype(int) - expected.confidence).max() <= 2


@pytest.mark.parametrize("row", ["onnxruntime-int8", "openvino-int8"])
def test_int8_rows_say_how_they_compute_and_what_calibrated_them(
    row: str, workshop: Workshop
) -> None:
    if row.startswith("openvino"):
        openvino = pytest.importorskip("openvino")
        if "INT8" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip("no INT8 on this processor")
    recipe = prepared(row, workshop)
    assert recipe.manifest is not None and recipe.manifest.precision == "int8"
    assert recipe.manifest.calibration is not None and recipe.manifest.calibration.images == 2
    timed, scored = recipe.opened(), recipe.scored()
    if row == "onnxruntime-int8":
        assert scored.info.arithmetic == EXACT
    else:
        assert scored.info.arithmetic == timed.info.arithmetic != EXACT
    images = noise((1, *SIZE, 3), 1)
    assert (timed.infer(images) == scored.infer(images)).mean() > 0.8


def test_a_file_is_opened_twice_where_onnxruntime_fuses_it(
    tmp_path: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fuses in (True, False):
        path = write_int8(tmp_path, fuses)
        monkeypatch.setattr(Workshop, "onnx", lambda *_, path=path, **more: path)
        recipe = prepared("onnxruntime-int8", workshop)
        assert (recipe.exact is not None) == fuses
        assert recipe.scored().info.arithmetic == EXACT
        assert recipe.opened().info.arithmetic.startswith("fused int8" if fuses else EXACT)
        assert recipe.manifest is not None and recipe.manifest.calibration is not None
        assert recipe.manifest.calibration.method == "fixed"


def test_artifacts_are_made_once_and_again_when_damaged(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import export.onnx_export

    made: list[Path] = []
    real = export.onnx_export.export_onnx

    def counted(checkpoint: Path, output: Path, *arguments: Any, **named: Any) -> Any:
        made.append(output)
        return real(checkpoint, output, *arguments, **named)

    monkeypatch.setattr(export.onnx_export, "export_onnx", counted)
    small = Setting((64, 64))
    path = workshop.onnx(small, "fp32", "portable")
    assert workshop.onnx(Setting((64, 64), streams=2), "fp32", "portable") == path
    assert made == [path]
    path.write_bytes(path.read_bytes()[:1000])
    assert workshop.onnx(small, "fp32", "portable") == path and made == [path, path]
    others = {
        workshop.onnx(small, "fp32", "ort-cpu"),
        workshop.onnx(small, "fp32", "portable", "int32"),
        workshop.onnx(Setting((64, 64), batch=2), "fp32", "portable"),
        workshop.onnx(Setting((64, 72)), "fp32", "portable"),
        dataclasses.replace(workshop, given=Given("toy-street")).onnx(small, "fp32", "portable"),
    }
    assert len({path, *others}) == 5  # the last names what the checkpoint says itself
    other = dataclasses.replace(workshop, checkpoint_path=write_checkpoint(tmp_path, True))
    assert other._stem(workshop.spec) != workshop._stem(workshop.spec)


def test_what_is_said_of_a_public_checkpoint_is_part_of_its_name(
    workshop: Workshop, tmp_path: Path
) -> None:
    path = tmp_path / "public.pth"
    torch.save(build_model("enet", 12).state_dict(), path)
    said = [Given("camvid", void=void, mean=mean) for void in VOID for mean in (None, (1, 2, 3))]
    public = [dataclasses.replace(workshop, checkpoint_path=path, given=given) for given in said]
    assert len({each._stem(workshop.spec) for each in public}) == 4


def test_rows_that_need_a_gpu_say_so(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in (tensorrt_backend, onnxruntime_backend):
        monkeypatch.setattr(backend, "gpu_unavailable_reason", "no NVIDIA GPU {}".format)
    cuda = dataclasses.replace(workshop, device=Device("cuda", 1))
    assert reason("tensorrt-fp32", cuda) == "no NVIDIA GPU 1"
    assert reason("tensorrtrtx-int8-cuda-graph", cuda) == "no NVIDIA GPU 1"
    assert reason("onnxruntime-fp32", cuda) == "no NVIDIA GPU 1"
    assert "computes FP16 graphs in FP32" in reason("onnxruntime-fp16", workshop)
    of_tensorrt = ("onnxruntime-tensorrt-fp16", "onnxruntime-tensorrtrtx-fp16")
    for row in (*of_tensorrt, "onnxruntime-fp32-cuda-graph"):
        assert "needs a GPU; choose --device cuda" in reason(row, workshop)
    assert "a CUDA graph needs a GPU" in reason("pytorch-cuda-graph", workshop)
    assert "on the CPU only" in reason("openvino-fp32", cuda)
    monkeypatch.setattr(tensorrt_backend, "gpu_unavailable_reason", lambda index: None)
    assert "tensorrt needs a GPU; choose --device cuda" in reason("tensorrt-fp32", workshop)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "'tensorrt' is not installed" in reason("tensorrt-fp32", cuda)
    assert "'tensorrt_rtx' is not installed" in reason("tensorrtrtx-fp32", cuda)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "'openvino' is not installed" in reason("openvino-fp32", workshop)


def test_threads_are_shared_by_streams(workshop: Workshop) -> None:
    eight = dataclasses.replace(workshop, threads=8)
    recipe = prepared("onnxruntime-fp32", eight, Setting(SIZE, streams=3))
    assert recipe.arguments["threads"] == 2
    assert prepared("pytorch-fp32", eight).arguments["threads"] == 8
    assert prepared("pytorch-fp32", workshop, Setting(SIZE, streams=3)).arguments["threads"] == 1


def test_the_papers_protocol_times_the_bare_network(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = prepared("pytorch-paper", workshop)
    with Isolated("paper", recipe.opened, (), tmp_path / "log") as paper:
        assert 0 < paper.call("run", 1, 2) < 60
    seen: list[Any] = []
    side = 32
    here = recipe.open(**{**recipe.arguments, "shape": (1, side, side, 3)})
    here._network.register_forward_hook(lambda _, given, logits: seen.append((given[0], logits)))
    assert here.run() > 0
    assert len(seen) == 150
    given, logits = seen[-1]
    assert (given.dtype, given.shape) == (torch.float32, (1, 3, side, side))
    assert (logits.dtype, logits.shape) == (torch.float32, (1, 11, side, side))
    assert "one image per call" in reason("pytorch-paper", workshop, Setting(SIZE, batch=2))
    assert "one image per call" in reason("pytorch-paper", workshop, Setting(SIZE, streams=2))


@pytest.mark.parametrize("row", ["onnxruntime-fp32", "openvino-fp32", "null-harness"])
def test_a_rows_process_holds_its_own_backend_alone(
    row: str, workshop: Workshop, tmp_path: Path
) -> None:
    if row.startswith("openvino"):
        pytest.importorskip("openvino")
    (tmp_path / "recipe").write_bytes(pickle.dumps(prepared(row, workshop)))
    program = (
        "import pickle, sys; import bench.measure.timer;"
        f"pickle.loads(open({str(tmp_path / 'recipe')!r}, 'rb').read()).opened();"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'scipy', 'jinja2', 'matplotlib'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [name for name in [row.partition("-")[0]] if name != "null"]


# --- backends of others -----------------------------------------------------------------------


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a package ``brightness`` of this text, with the entry point of the page."""

    def installed(text: str) -> None:
        package, info = tmp_path / "brightness", tmp_path / "brightness-1.0.dist-info"
        for folder in (package, info):
            folder.mkdir()
        (package / "__init__.py").write_text(text, encoding="utf-8")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brightness\nVersion: 1.0\n")
        entry = re.findall(r"```ini\n\[options\.entry_points\]\n(.*?)```", _page(), re.DOTALL)[0]
        group, line = (part.strip() for part in entry.strip().splitlines())
        (info / "entry_points.txt").write_text(f"[{group.rstrip(' =')}]\n{line}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "brightness", raising=False)

    return installed


def _page() -> str:
    return DOC.read_text(encoding="utf-8")


def example() -> str:
    return str(re.findall(r"```python\n(.*?)```", _page(), re.DOTALL)[0])


def test_the_example_of_the_page_is_a_backend(
    install: Callable[[str], None], workshop: Workshop, tmp_path: Path
) -> None:
    install(example())
    known = backends()
    backend: Backend = known["brightness"]
    assert list(known)[-1] == "brightness"
    assert row_names([], known, "cpu")[-1] == "brightness-half"
    assert row_names(["brightness"], known, "cpu") == ("brightness-half", "brightness-gpu")
    assert reason("brightness-gpu", workshop) == "brightness runs on the CPU only"
    inputs = [noise((1, *SIZE, 3), seed) for seed in range(2)]
    recipe = backend.prepare("half", SETTING, workshop)
    assert np.array_equal(recipe.scored().infer(inputs[0]), inputs[0].mean(axis=3) > 127)
    with Isolated("brightness", Timer, (recipe, inputs), tmp_path / "log") as timer:
        assert timer.call("opened").info.backend == "brightness"
        timer.call("warm_up", "device", 0.1)
        assert len(timer.call("turn", "device", 5).samples_ns) == 5


def test_a_backend_that_does_not_load_or_takes_a_name(install: Callable[[str], None]) -> None:
    install("raise RuntimeError('half installed')")
    with pytest.raises(InputError, match="half installed.*uninstall or repair the package bright"):
        backends()


def test_a_backend_may_not_take_our_name(install: Callable[[str], None]) -> None:
    install(example().replace('"brightness", ("half"', '"openvino", ("half"'))
    with pytest.raises(InputError, match="has the name 'openvino' of another one"):
        backends()


# --- against the double of a GPU --------------------------------------------------------------


def test_engines_are_built_once_for_each_product(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX builds for real: only that it builds ahead of time stands for a GPU."""
    pytest.importorskip("tensorrt_rtx")
    import export.engine.engine
    import export.engine.spec

    built: list[Path] = []
    real = export.engine.engine.build_engine

    def ahead(source: Path, output: Path, spec: export.engine.spec.BuildSpec) -> Any:
        built.append(output)
        assert spec.device == 1
        return real(source, output, dataclasses.replace(spec, target="sm86"))

    monkeypatch.setattr(export.engine.engine, "build_engine", ahead)
    monkeypatch.setattr(tensorrt_backend, "gpu_unavailable_reason", lambda index: None)
    monkeypatch.setattr(Workshop, "onnx", lambda *_: write_contract(tmp_path))
    cards = {"name": "NVIDIA Double 3090", "driver": "580.1 (CUDA 13.0)"}
    monkeypatch.setattr(cache, "open_device_memory", lambda i: FakeDeviceMemory(i, **cards))
    cuda = dataclasses.replace(workshop, device=Device("cuda", 1))
    recipe = prepared("tensorrtrtx-fp32", cuda)
    again = prepared("tensorrtrtx-fp32-cuda-graph", cuda)
    assert built == [recipe.artifact] == [again.artifact]
    assert recipe.arguments["device"] == "cuda:1"
    for change in ({"name": "NVIDIA Double 4090"}, {"driver": "590.1 (CUDA 13.1)"}):
        monkeypatch.setitem(cards, *next(iter(change.items())))
        other = dataclasses.replace(cuda)  # as a run on another card, or after an update
        assert prepared("tensorrtrtx-fp32", other).artifact == built[-1]
    assert len(set(built)) == 3
    assert (recipe.arguments["cuda_graph"], again.arguments["cuda_graph"]) == (False, True)
    assert recipe.manifest is not None and recipe.manifest.engine is not None
    assert recipe.manifest.engine.product == "tensorrt_rtx"
    assert recipe.graph is not None and recipe.graph.parent == tmp_path
    assert recipe.manifest.input.shape[1:3] == (HEIGHT, WIDTH)


def test_onnxruntime_on_a_gpu_is_opened_once_before_it_is_timed(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = CudaScenario()
    monkeypatch.setitem(sys.modules, "onnxruntime", make_double(scenario))
    monkeypatch.setitem(sys.modules, RTX_PLUGIN, make_plugin())
    monkeypatch.setattr(onnxruntime_gpu, "open_device_memory", scenario.open_memory)
    monkeypatch.setattr(cache, "open_device_memory", FakeDeviceMemory)
    monkeypatch.setattr(onnxruntime_backend, "gpu_unavailable_reason", lambda index: None)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    asked: list[tuple[Any, ...]] = []

    def onnx_of(
        _: Workshop, setting: Setting, precision: str, target: str, rest: str | None
    ) -> Any:
        asked.append((precision, target, rest))
        return write_contract(tmp_path, precision)

    monkeypatch.setattr(Workshop, "onnx", onnx_of)
    cuda = dataclasses.replace(workshop, device=Device("cuda"))
    recipe = prepared("onnxruntime-tensorrt-fp16", cuda)
    assert asked.pop() == ("fp16", "tensorrt", None)
    assert scenario.settings["trt_fp16_enable"] == "1"  # its engine is built, and in the cache
    assert pickle.loads(pickle.dumps(recipe.arguments)) == recipe.arguments
    assert recipe.opened().info.precision == "fp16"
    assert prepared("onnxruntime-fp32-cuda-graph", cuda).opened().info.notes[1] == "CUDA graph"
    assert asked.pop() == ("fp32", "ort-cuda", None)
    assert prepared("onnxruntime-tensorrt-int8", cuda).exact is None
    assert asked.pop() == ("int8", "tensorrt", "fp32")
    recipe = prepared("onnxruntime-tensorrtrtx-int8", cuda)
    assert asked.pop() == ("int8", "tensorrt-rtx", None)  # its types are the file's
    assert recipe.arguments["tensorrt"].name == OF_TENSORRT["tensorrt_rtx"]
