"""From a checkpoint or an ONNX file to an engine: the order of things, and the options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import onnx
import pytest

import export.engine.engine as trt_export
from dabnet.data.registry import label_set
from dabnet.errors import ArtifactError, BuildError, DabnetError, InputError
from dabnet.runtime.manifest import Manifest
from export.cli.main import export_group
from export.engine.spec import BuildSpec
from export.spec import ExportSpec
from tests.support.contract_graph import contract_manifest, write_contract
from tests.support.engine_builds import install, scenario_of, write_dynamic
from tests.support.seeded_checkpoint import no_bar, write_checkpoint

SIZE = (32, 64)


class Exported:
    """In place of ``export_onnx``: writes the contract graph, and keeps what was asked for."""

    def __init__(self) -> None:
        self.specs: list[ExportSpec] = []

    def __call__(self, _: Path, output: Path, spec: ExportSpec, **more: Any) -> Manifest:
        self.specs.append(spec)
        write_contract(output.parent, spec.precision, spec.mask_dtype).rename(output)
        manifest = contract_manifest(spec.precision, spec.mask_dtype)
        return of_dataset("toy-street", manifest)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Exported:
    exported = Exported()
    monkeypatch.setattr(trt_export, "export_onnx", exported)
    return exported


def from_checkpoint(folder: Path, build: BuildSpec) -> Manifest:
    return trt_export.engine_from_checkpoint(
        write_checkpoint(folder),
        folder / "model.engine",
        ExportSpec(SIZE, build.onnx_precision, calibration_images=2),
        build,
        given=None,
        data_dir=None,
        progress=no_bar,
    )


@pytest.mark.parametrize(
    ("version", "capability", "build", "message"),
    [
        ("rtx-1.7.1", (8, 6), BuildSpec("fp32", "sm999"), "takes no target sm999"),
        ("10.16.1", (6, 1), BuildSpec("fp32"), "constraints/pascal.txt"),
        ("8.6.1", (6, 1), BuildSpec("int8", version_compatible=True, product="tensorrt"), ""),
        ("11.4.0", (8, 6), BuildSpec("int8", calibrator="entropy"), "Q/DQ"),
        ("11.4.0", (8, 6), BuildSpec("fp32", max_shape=(2, 32, 64)), "--max-shape for an ONNX"),
    ],
)
def test_what_cannot_be_built_is_not_exported(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    exported: Exported,
    version: str,
    capability: tuple[int, int],
    build: BuildSpec,
    message: str,
) -> None:
    install(monkeypatch, version, scenario_of(build.precision), capability)
    if not message:  # this one can
        from_checkpoint(tmp_path, build)
        assert [spec.mask_dtype for spec in exported.specs] == ["int32"]
        return
    with pytest.raises(DabnetError, match=message):
        from_checkpoint(tmp_path, build)
    assert exported.specs == []
    assert [path.suffix for path in tmp_path.iterdir()] == [".pth"]


@pytest.mark.parametrize("version", ["8.6.1", "10.16.1"])
def test_a_calibrator_takes_an_fp32_export_and_training_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exported: Exported, version: str
) -> None:
    scenario = scenario_of("int8")
    install(monkeypatch, version, scenario)
    manifest = from_checkpoint(tmp_path, BuildSpec("int8", calibrator="minmax"))
    assert [spec.precision for spec in exported.specs] == ["fp32"]
    assert [spec.optimize_for for spec in exported.specs] == ["portable"]
    assert [batch.shape for batch in scenario.batches] == [(1, *SIZE, 3)] * 2
    assert manifest.precision == "int8"
    assert manifest.calibration is not None
    assert (manifest.calibration.split, manifest.calibration.images) == ("train", 2)


@pytest.mark.parametrize(
    ("version", "target", "rest"),
    [
        ("8.6.1", "tensorrt", "fp32"),  # opset 17 alone
        ("10.16.1", "tensorrt", "fp16"),
        ("11.4.0", "tensorrt", "fp16"),
        ("rtx-1.7.1", "tensorrt-rtx", "fp16"),
    ],
)
def test_each_product_gets_the_graph_that_it_builds_best(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    exported: Exported,
    version: str,
    target: str,
    rest: str,
) -> None:
    install(monkeypatch, version, scenario_of("int8"))
    from_checkpoint(tmp_path, BuildSpec("int8"))
    (spec,) = exported.specs
    assert (spec.optimize_for, spec.int8_placement, spec.int8_rest) == (target, "dense-only", rest)


def of_dataset(name: str, manifest: Manifest | None = None) -> Manifest:
    labels = label_set(name)
    manifest = replace(manifest or contract_manifest(), dataset=name, ignore=labels.ignore)
    return replace(manifest, classes=labels.classes, palette=labels.palette)


def test_which_images_a_calibrator_gets(tmp_path: Path) -> None:
    cache = tmp_path / "ranges"
    build = BuildSpec("int8", calibrator="entropy", calibration_cache=cache)
    images = trt_export.calibrator_images(build, of_dataset("camvid"), None, 5)
    assert images is not None
    with pytest.raises(InputError, match="INT8 needs images of camvid.*--data-dir"):
        images(SIZE)
    cache.write_bytes(b"ranges")
    assert trt_export.calibrator_images(build, of_dataset("camvid"), None, 5) is None
    toy = trt_export.calibrator_images(build, of_dataset("toy-street"), None, 5)
    assert toy is not None
    assert toy(SIZE).description == "5 images of toy-street train"
    assert trt_export.calibrator_images(BuildSpec("int8"), of_dataset("camvid"), None, 5) is None


# --- the command ------------------------------------------------------------------------------


def trt(*arguments: object) -> None:
    export_group.main(["trt", *map(str, arguments)], standalone_mode=False)


def test_options_reach_the_builder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = scenario_of("fp32")
    install(monkeypatch, "10.16.1", scenario)
    engine = tmp_path / "m.engine"
    trt(
        *(write_dynamic(tmp_path), "-o", engine, "--timing-cache", tmp_path / "timings"),
        *("--hardware-compatible", "ampere-plus", "--version-compatible", "--workspace-mib", 64),
        *("--min-shape", "1x32x64", "--opt-shape", "2x32x64", "--max-shape", "3x64x64"),
    )
    stored = Manifest.from_json((tmp_path / "m.engine.json").read_text(encoding="utf-8"), "m")
    assert stored.engine is not None
    assert stored.engine.compatibility == ("hardware", "version")
    assert stored.engine.profile == ((1, 32, 64, 3), (2, 32, 64, 3), (3, 64, 64, 3))
    assert scenario.called("WORKSPACE") == [64 << 20]
    assert (tmp_path / "timings").read_bytes().startswith(b"\0timings of 10.16.1")
    assert (
        "  input shapes from 1x32x64x3 to 3x64x64x3, best at 2x32x64x3\n" in capsys.readouterr().out
    )


def test_the_gpu_that_builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built: list[BuildSpec] = []

    def build(source: Path, output: Path, spec: BuildSpec, *_: Any, **__: Any) -> Manifest:
        built.append(spec)
        output.touch()
        return contract_manifest()

    monkeypatch.setattr(trt_export, "build_engine", build)
    source, output = write_contract(tmp_path), ("-o", tmp_path / "m.engine")
    trt(source, *output)
    trt(source, *output, "--device", "cuda:1")
    trt(source, *output, "--device", "cpu", "--target", "sm86")
    assert [spec.device for spec in built] == [0, 1, 0]


def test_an_onnx_file_of_another_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "10.16.1", scenario_of("fp32"))
    source, engine = write_contract(tmp_path), tmp_path / "m.engine"
    model = onnx.load(str(source))
    del model.metadata_props[:]
    onnx.save(model, str(source))
    with pytest.raises(ArtifactError, match="carries no manifest; .*--dataset or --classes$"):
        trt(source, "-o", engine)
    with pytest.raises(InputError, match="--batch for the ONNX file"):
        trt(source, "-o", engine, "--dataset", "camvid", "--batch", 2)
    assert list(tmp_path.iterdir()) == [source]
    trt(source, "-o", engine, "--dataset", "camvid")
    stored = Manifest.from_json((tmp_path / "m.engine.json").read_text(encoding="utf-8"), "m")
    assert stored.is_described and stored.dataset == "camvid"
    assert stored.classes[:2] == ("sky", "building")
    assert stored.engine is not None and stored.engine.layers_by_type == {"Float": 2}


def test_a_calibrator_means_int8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "10.16.1", scenario_of("int8"))
    source, cache = write_contract(tmp_path), tmp_path / "ranges"
    cache.write_bytes(b"TRT-10.16.1-MinMaxCalibration\n")
    options = ("--int8-calibrator", "minmax", "--calibration-cache", cache)
    trt(source, "-o", tmp_path / "m.engine", *options)
    stored = Manifest.from_json((tmp_path / "m.engine.json").read_text(encoding="utf-8"), "m")
    assert stored.precision == "int8"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("--size", "64x64"), InputError, "--size 64x64; expected 32x64, the size of"),
        (("--batch", 2), InputError, "--batch for the ONNX file .* a checkpoint"),
        (("--mask-dtype", "int32", "--dataset", "camvid"), InputError, "--mask-dtype, --dataset"),
        (("--min-shape", "64x64"), click.UsageError, "'64x64' is not a size; .* 1x512x1024"),
        (("--min-shape", "1x32x64"), InputError, "--min-shape for an ONNX file of the fixed shape"),
        (("--precision", "fp32", "--int8-calibrator", "entropy"), InputError, "leave --int8-cal"),
        (("--precision", "int8"), ArtifactError, "is fp32; expected int8"),
        (("--target", "sm86", "--timing-cache", "t"), BuildError, "leave --timing-cache out"),
        (("--target", "sm86", "--version-compatible"), BuildError, "leave the option out"),
        (("--target", "sm86", "--int8-calibrator", "minmax"), BuildError, "Q/DQ"),
        (
            ("--target", "sm86", "--device", "cuda:0"),
            InputError,
            "a build without a GPU; leave one",
        ),
        (("--device", "cpu"), InputError, "--device cpu for an engine; .*add --target sm86"),
        (("--device", "cuda:x"), click.UsageError, "device 'cuda:x'; expected cpu, cuda or cuda:N"),
        (("--classes", "c.txt"), DabnetError, "no file at 'c.txt'"),
        (("--mean", "1,2,3"), InputError, "--mean for .*; expected a file without a manifest"),
        (("--mean", "1,2"), click.UsageError, "'1,2' is not R,G,B; expected three numbers"),
    ],
)
def test_options_that_do_not_go_together(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: tuple[object, ...],
    error: type[DabnetError],
    message: str,
) -> None:
    install(monkeypatch, "rtx-1.7.1", scenario_of("fp32"))
    monkeypatch.chdir(tmp_path)
    source = write_contract(tmp_path)
    with pytest.raises(error, match=message) as caught:
        trt(source, "-o", tmp_path / "m.engine", *options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]
