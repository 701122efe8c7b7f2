"""Building engines: for real with TensorRT-RTX, and against doubles of every version."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from contract_graph import write_contract
from tensorrt_double import (
    PLAN,
    VERSIONS,
    FakeDeviceMemory,
    Scenario,
    inspector_json,
    layer_report,
    make_double,
)

from dabnet.errors import ArtifactError, BackendUnavailable, BuildError, InputError, MissingPackage
from dabnet.files import sha256_of_file
from dabnet.runtime.manifest import Manifest, engine_manifest_path
from dabnet.runtime.tensorrt_product import find_product
from export.build_spec import BuildSpec
from export.engine import build_engine, refuse_early

READS = {"fp32": "FP32", "fp16": "FP16", "int8": "Int8"}
FOUND = {"fp32": {"Float": 2}, "fp16": {"Half": 2}, "int8": {"Float": 1, "Int8": 2}}


def scenario_of(precision: str) -> Scenario:
    """An engine that is what was asked for, as the inspector shows it."""
    kinds = [READS[precision]] * 2 + (["FP32"] if precision == "int8" else [])
    return Scenario(inspector=inspector_json(*kinds))


def install(monkeypatch: pytest.MonkeyPatch, version: str, scenario: Scenario) -> None:
    """Make the double the only TensorRT, on a machine with a GPU."""
    double = make_double(version, scenario)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, double if name == double.__name__ else None)
    capability = (6, 1) if version.startswith("8.") else (8, 6)
    memory = FakeDeviceMemory(compute_capability=capability)
    monkeypatch.setattr("export.engine.open_device_memory", lambda: memory)


def build(
    monkeypatch: pytest.MonkeyPatch, folder: Path, version: str, precision: str, scenario: Scenario
) -> Manifest:
    install(monkeypatch, version, scenario)
    mask = "int32" if version.startswith("8.") else "uint8"
    source = write_contract(folder, precision, mask)
    return build_engine(source, folder / "model.engine", BuildSpec(precision))


def nothing_was_written(folder: Path) -> bool:
    return all(path.suffix == ".onnx" for path in folder.iterdir())


# --- for real, with TensorRT-RTX --------------------------------------------------------------


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "Float"), ("fp16", "Half")])
def test_rtx_builds_float_engines(tmp_path: Path, precision: str, kind: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = write_contract(tmp_path, precision)
    said: list[str] = []
    output = tmp_path / "model.engine"
    manifest = build_engine(source, output, BuildSpec(precision, "sm86"), said.append)
    assert manifest.engine is not None
    layers = manifest.engine.layers_by_type
    assert layers[kind] >= 4, layers  # each convolution
    assert {"Float", "Half"} & layers.keys() == {kind}
    assert "Int8" not in layers
    assert (manifest.engine.product, manifest.engine.target) == ("tensorrt_rtx", "sm86")
    assert (manifest.engine.gpu, manifest.engine.compute_capability) == ("", "")
    assert manifest.onnx_sha256 == sha256_of_file(source)
    assert manifest.libraries["tensorrt_rtx"] == manifest.engine.version
    assert output.stat().st_size > 10_000
    stored = engine_manifest_path(output).read_text(encoding="utf-8")
    assert Manifest.from_json(stored, "test") == manifest
    assert any("sm86" in text for text in said)


@pytest.mark.parametrize("target", ["sm86", "sm86,sm89", "sm120"])
def test_rtx_int8_convolutions_read_int8(tmp_path: Path, target: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = write_contract(tmp_path, "int8")
    manifest = build_engine(source, tmp_path / "m.engine", BuildSpec("int8", target))
    assert manifest.engine is not None
    assert manifest.engine.layers_by_type["Int8"] == 4  # the four convolutions, and nothing else


def test_rtx_int8_for_turing_is_refused_since_it_computes_in_float(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = write_contract(tmp_path, "int8")
    with pytest.raises(BuildError, match="no layer computes in Int8.*use a float precision"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("int8", "sm75"))
    assert nothing_was_written(tmp_path)


def test_rtx_says_why_it_cannot_parse(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = write_contract(tmp_path, "fp32", order="transpose-first")
    with pytest.raises(BuildError, match="cannot parse.*input has type UInt8") as caught:
        build_engine(source, tmp_path / "m.engine", BuildSpec("fp32", "sm86"))
    assert "\n" not in str(caught.value)
    assert nothing_was_written(tmp_path)


def test_rtx_says_why_it_built_nothing(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = write_contract(tmp_path)
    with pytest.raises(BuildError, match="workspace limit.*raise --workspace-mib"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("fp32", "sm86", workspace_mib=1))
    assert nothing_was_written(tmp_path)


def test_rtx_names_the_targets_it_has(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = write_contract(tmp_path)
    with pytest.raises(BuildError, match="no target sm61; expected one of .*sm86"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("fp32", "sm61"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's legacy exporter
def test_rtx_builds_the_network(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("dabnet.models")
    from contract_graph import contract_manifest, export_network

    network = models.build_model("dabnet", 11)
    torch.manual_seed(0)
    source = export_network(network, contract_manifest(), tmp_path / "dabnet.onnx", 64, 128)
    manifest = build_engine(source, tmp_path / "m.engine", BuildSpec("fp32", "sm86"))
    assert manifest.engine is not None
    assert manifest.engine.layers_by_type["Float"] >= 60  # at least each convolution


# --- the same code against every version ------------------------------------------------------


# FP16 on TensorRT 8, which here means Pascal, is refused: see test_fp16_on_a_1080_ti_is_refused.
CASES = [(v, p) for v in VERSIONS for p in READS if (v, p) != ("8.6.1", "fp16")]


@pytest.mark.parametrize(("version", "precision"), CASES)
def test_flags_of_each_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, precision: str
) -> None:
    scenario = scenario_of(precision)
    manifest = build(monkeypatch, tmp_path, version, precision, scenario)
    old = version == "8.6.1"
    network = scenario.called("create_network")
    assert network == [{"EXPLICIT_BATCH"} if old else {"STRONGLY_TYPED"}]
    assert scenario.called("set_flag") == (["INT8"] if old and precision == "int8" else [])
    assert scenario.called("clear_flag") == (["TF32"] if precision == "fp32" else [])
    assert [v.name for v in scenario.called("profiling_verbosity")] == ["DETAILED"]
    rtx = version.startswith("rtx")
    assert scenario.called("set_compute_capability") == (["CURRENT"] if rtx else [])
    assert manifest.engine is not None
    assert manifest.engine.layers_by_type == FOUND[precision]
    assert manifest.engine.target == "this-gpu"
    assert manifest.engine.gpu == "NVIDIA Double 3090"
    assert manifest.engine.compute_capability == ("6.1" if old else "8.6")
    assert (tmp_path / "model.engine").read_bytes() == PLAN


def test_fp16_on_tensorrt_8_sets_its_flag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scenario = scenario_of("fp16")
    install(monkeypatch, "8.6.1", scenario)
    turing = FakeDeviceMemory(compute_capability=(7, 5))
    monkeypatch.setattr("export.engine.open_device_memory", lambda: turing)
    source = write_contract(tmp_path, "fp16", "int32")
    build_engine(source, tmp_path / "model.engine", BuildSpec("fp16"))
    assert scenario.called("set_flag") == ["FP16"]
    assert turing.opened == 0


def test_a_target_goes_to_the_builder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scenario = Scenario(log=(("VERBOSE", layer_report("Int8", "Float")),), loads=False)
    install(monkeypatch, "rtx-1.7.1", scenario)
    spec = BuildSpec("int8", "sm80,sm89", workspace_mib=512)
    manifest = build_engine(write_contract(tmp_path, "int8"), tmp_path / "model.engine", spec)
    assert scenario.called("num_compute_capabilities") == [2]
    assert scenario.called("set_compute_capability") == ["SM80", "SM89"]
    assert scenario.called("WORKSPACE") == [512 << 20]
    assert manifest.engine is not None
    assert manifest.engine.layers_by_type == {"Float": 1, "Int8": 1}


def test_the_double_has_only_the_names_of_its_version() -> None:
    new, old = make_double("11.4.0"), make_double("8.6.1")
    assert not hasattr(new.BuilderFlag, "INT8")
    assert hasattr(old.BuilderFlag, "INT8")
    assert not hasattr(new, "ComputeCapability")
    with pytest.raises(AttributeError):
        new.IBuilderConfig().max_workspace_size = 1
    with pytest.raises(AttributeError):
        new.Runtime(None).get_engine_validity(b"")
    with pytest.raises(NotImplementedError):
        _ = old.ICudaEngine().num_bindings


def test_the_rtx_list_is_that_of_the_installed_package() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    double = make_double("rtx-1.7.1")
    if not real.__version__.startswith(double.__version__):
        pytest.skip("another version is installed")
    for name in ("Builder", "BuilderFlag", "IBuilderConfig", "OnnxParser", "ICudaEngine"):
        names = [n for n in vars(getattr(double, name)) if not n.startswith("_")]
        assert names
        assert [n for n in names if not hasattr(getattr(real, name), n)] == []


# --- faults -----------------------------------------------------------------------------------


def test_parser_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scenario = Scenario(parser_errors=("Invalid Node - conv_7\nno importer", "second"))
    with pytest.raises(BuildError, match="cannot parse.*Invalid Node - conv_7 no importer"):
        build(monkeypatch, tmp_path, "10.16.1", "fp32", scenario)
    assert nothing_was_written(tmp_path)


def test_builder_returns_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scenario = Scenario(
        plan=None, log=(("WARNING", "hm"), ("ERROR", "out of memory"), ("ERROR", "x"))
    )
    with pytest.raises(BuildError, match=r"11.4.0 built no engine: out of memory$"):
        build(monkeypatch, tmp_path, "11.4.0", "fp32", scenario)
    assert nothing_was_written(tmp_path)


@pytest.mark.parametrize(
    ("precision", "kinds", "reason"),
    [
        ("int8", ["FP32", "FP16"], "no layer computes in Int8"),
        ("fp16", ["FP32"], "no layer computes in Half"),
        ("fp32", ["FP32", "FP16"], "some layers compute in Half"),
        ("int8", [], "did not report"),
    ],
)
@pytest.mark.parametrize("version", ["10.0.1", "rtx-1.7.1"])
def test_another_precision_than_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    version: str,
    precision: str,
    kinds: list[str],
    reason: str,
) -> None:
    scenario = Scenario(inspector=inspector_json(*kinds))
    with pytest.raises(BuildError, match=reason):
        build(monkeypatch, tmp_path, version, precision, scenario)
    assert nothing_was_written(tmp_path)


def test_inspector_without_details_is_no_proof(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for text in ('{"Layers": ["conv 1", "conv 2"]}', "no JSON", "{}"):
        with pytest.raises(BuildError, match="did not report"):
            build(monkeypatch, tmp_path, "10.16.1", "fp32", Scenario(inspector=text))


def test_engine_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be loaded: Serialization assertion"):
        build(monkeypatch, tmp_path, "10.16.1", "fp32", Scenario(loads=False))
    assert nothing_was_written(tmp_path)


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_failed_rename_leaves_what_was_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: int, earlier: bool
) -> None:
    import dabnet.files

    engine, manifest = tmp_path / "model.engine", tmp_path / "model.engine.json"
    if earlier:
        engine.write_bytes(b"old engine")
        manifest.write_text("old manifest", encoding="utf-8")
    calls = 0
    rename = dabnet.files.os.replace

    def replace(source: object, target: object) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(dabnet.files.os, "replace", replace)
    with pytest.raises(InputError, match="could not be written .No space left on device"):
        build(monkeypatch, tmp_path, "10.16.1", "fp32", scenario_of("fp32"))
    if earlier:
        assert (engine.read_bytes(), manifest.read_text()) == (b"old engine", "old manifest")
        assert len(list(tmp_path.iterdir())) == 3  # and the ONNX file
    else:
        assert nothing_was_written(tmp_path)


def test_onnx_without_or_with_a_foreign_manifest(tmp_path: Path) -> None:
    source = write_contract(tmp_path, "fp32", declared="int8")
    with pytest.raises(ArtifactError, match=r"is int8; expected fp32.*--precision fp32"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("fp32"))
    model = onnx.load(str(source))
    del model.metadata_props[:]
    onnx.save(model, str(source))
    with pytest.raises(ArtifactError, match="carries no manifest.*dabnet-export onnx"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("fp32"))
    source.write_bytes(b"no protobuf")
    with pytest.raises(ArtifactError, match="cannot be read as ONNX"):
        build_engine(source, tmp_path / "m.engine", BuildSpec("fp32"))
    with pytest.raises(InputError, match="no file at"):
        build_engine(tmp_path / "none.onnx", tmp_path / "m.engine", BuildSpec("fp32"))


# --- what is refused before the build ---------------------------------------------------------


@pytest.mark.parametrize("version", ["10.0.1", "10.16.1", "11.4.0", "rtx-1.7.1"])
def test_pascal_is_told_its_stack(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install(monkeypatch, version, Scenario())
    with pytest.raises(BuildError, match=r"pip install -c constraints/pascal.txt '.\[pascal\]'"):
        refuse_early(BuildSpec("fp32"), find_product(), (6, 1))
    refuse_early(BuildSpec("fp32"), find_product(), (7, 5))


def test_tensorrt_8_serves_pascal_but_emits_no_uint8(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "8.6.1", Scenario())
    refuse_early(BuildSpec("int8"), find_product(), (6, 1), "int32")
    with pytest.raises(BuildError, match="cannot emit uint8.*--mask-dtype int32"):
        refuse_early(BuildSpec("int8"), find_product(), (6, 1), "uint8")


def test_fp16_on_a_1080_ti_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "8.6.1", Scenario())
    with pytest.raises(BuildError, match="1/64 of FP32; expected fp32 or int8"):
        refuse_early(BuildSpec("fp16"), find_product(), (6, 1))


def test_a_target_needs_rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "10.16.1", Scenario())
    with pytest.raises(BuildError, match="cannot build for sm86; expected TensorRT-RTX"):
        refuse_early(BuildSpec("fp32", "sm86"), find_product())
    with pytest.raises(MissingPackage, match=r"'tensorrt_rtx' is not installed.*\[rtx\]"):
        build_engine(write_contract(tmp_path), tmp_path / "m.engine", BuildSpec("fp32", "sm86"))


def test_missing_products_name_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackage, match=r"\[gpu\].*\[rtx\].*\[pascal\]"):
        find_product()
    with pytest.raises(MissingPackage, match=r"'tensorrt' is not installed.*\[gpu\]"):
        find_product("tensorrt")
    with pytest.raises(InputError, match="'openvino'; expected one of tensorrt, tensorrt_rtx"):
        find_product("openvino")


def test_no_gpu_is_said_before_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "10.16.1", Scenario())

    def none() -> None:
        raise BackendUnavailable("no NVIDIA GPU")

    monkeypatch.setattr("export.engine.open_device_memory", none)
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU"):
        build_engine(write_contract(tmp_path), tmp_path / "m.engine", BuildSpec("fp32"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("int4",), "precision 'int4'; expected one of fp32, fp16, int8"),
        (("fp32", "86"), "--target '86'"),
        (("fp32", "sm86,"), "--target 'sm86,'"),
        (("fp32", "sm86,sm86"), "each compute capability once"),
        (("fp32", "sm90"), "no Hopper"),
        (("fp32", "sm75,sm86"), "sm75 alone"),
        (("fp32", "sm86", None, "tensorrt"), "only TensorRT-RTX builds for another GPU"),
        (("fp32", None, 0), "workspace of 0 MiB"),
        (("fp32", None, None, "onnxruntime"), "product 'onnxruntime'"),
    ],
)
def test_specs_that_cannot_be_met(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BuildSpec(*arguments)  # type: ignore[arg-type]


def test_spec_of_a_target() -> None:
    spec = BuildSpec("fp16", "sm86,sm120")
    assert spec.capabilities == ("SM86", "SM120")
    assert spec.wanted_product == "tensorrt_rtx"
    assert BuildSpec("fp16").capabilities == ()
    assert BuildSpec("fp16").wanted_product is None
