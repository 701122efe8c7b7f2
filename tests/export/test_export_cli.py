"""``dabnet-export`` as a user meets it: real processes, their output, and what lies on the disk."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import onnx
import pytest
import torch

from dabnet.files import sha256_of_file
from dabnet.models import build_model
from dabnet.runtime.manifest import Manifest
from export.onnx_export import export_onnx
from export.onnx_file import load_onnx, manifest_of
from export.passes.targets import check_passes
from export.spec import ExportSpec
from tests.support.forked_commands import run_commands
from tests.support.processes import DABNET_EXPORT, run_python
from tests.support.seeded_checkpoint import SIZE, no_bar, write_checkpoint

SMALL = ["--size", f"{SIZE[0]}x{SIZE[1]}"]


def dabnet_export(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in ``folder``."""
    return run_python(DABNET_EXPORT, *arguments, folder=folder)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good and bad inputs; each test gets its own output folder beside them."""
    folder = tmp_path_factory.mktemp("inputs")
    good = write_checkpoint(folder)
    (folder / "truncated.pth").write_bytes(good.read_bytes()[:-50_000])
    (folder / "folder.pth").mkdir()
    torch.save({"model": {"backbone.weight": torch.zeros(3)}}, folder / "foreign.pth")
    state = torch.load(good, weights_only=True)["model"]
    torch.save({"epoch": 1000, "model": state}, folder / "public.pth")
    (folder / "classes.txt").write_text("".join(f"class {n}\n" for n in range(11)))
    export_onnx(good, folder / "good.onnx", ExportSpec(SIZE, check_images=1), progress=no_bar)
    bare = onnx.load(folder / "good.onnx")
    del bare.metadata_props[:]
    onnx.save(bare, folder / "bare.onnx")
    (folder / "damaged.onnx").write_bytes((folder / "good.onnx").read_bytes()[:100_000])
    return folder


BAD_INPUTS = {
    "missing file": (["onnx", "nowhere.pth"], r"no file at .*nowhere\.pth"),
    "directory": (["onnx", "folder.pth"], r"folder\.pth' is a directory"),
    "truncated": (["onnx", "truncated.pth", *SMALL], r"truncated\.pth' cannot be read as a check"),
    "foreign": (["onnx", "foreign.pth", "--dataset", "camvid"], "is not ours: it has tensors such"),
    "own classes of ours": (
        ["onnx", "seeded.pth", "--classes", "classes.txt", "--dilations", "2,4"],
        "--classes, --dilations for 'seeded.pth'; expected a checkpoint of another trainer; this",
    ),
    "no mean": (["onnx", "public.pth", "--classes", "classes.txt"], "add --mean R,G,B"),
    "no list": (["onnx", "public.pth", "--dilations", "2;2"], "'2;2' is not a list of whole n"),
    "void of an ONNX file": (
        ["trt", "bare.onnx", "--dataset", "camvid", "--void", "last", "--target", "sm86"],
        "--void for the ONNX file 'bare.onnx'; expected a checkpoint",
    ),
    "no size": (["onnx", "seeded.pth", "--size", "large"], "'large' is not a size; .* 512x1024"),
    "odd size": (
        ["onnx", "seeded.pth", "--size", "100x96"],
        "multiples of 8; the nearest is 96x96",
    ),
    "unknown dataset": (["onnx", "public.pth", "--dataset", "kitti"], "'kitti'.*camvid"),
    "another dataset": (["onnx", "seeded.pth", "--dataset", "camvid"], "trained on toy-street"),
    "no dataset": (["onnx", "public.pth", *SMALL], "add --dataset camvid"),
    "int8 without data": (
        ["onnx", "public.pth", "--dataset", "camvid", "--precision", "int8", *SMALL],
        "INT8 needs images of camvid.*add --data-dir",
    ),
    "no such data": (
        ["onnx", "public.pth", "--dataset", "camvid", "--data-dir", "nowhere", *SMALL],
        "nowhere",
    ),
    "onnx without manifest": (
        ["trt", "bare.onnx"],
        "carries no manifest; .*describe it with --dataset or --classes$",
    ),
    "damaged onnx": (["trt", "damaged.onnx"], "cannot be read as ONNX"),
    "wrong size": (
        ["trt", "good.onnx", "--size", "32x64", "--target", "sm86"],
        "--size 32x64; expected 64x96",
    ),
    "wrong precision": (
        ["trt", "good.onnx", "--precision", "int8", "--target", "sm86"],
        "is fp32; expected int8.*dabnet-export onnx --precision int8",
    ),
    "images that nothing calibrates": (
        ["trt", "good.onnx", "--calibration-images", "3", "--target", "sm86"],
        "--calibration-images for the ONNX file 'good.onnx'; expected a checkpoint",
    ),
    "data that nothing reads": (
        ["trt", "good.onnx", "--data-dir", ".", "--target", "sm86"],
        "--data-dir for the ONNX file 'good.onnx'",
    ),
    "an unknown pass": (["onnx", "seeded.pth", "--without-pass", "magic"], "unknown graph pass"),
    "a pass of another target": (
        ["onnx", "seeded.pth", "--without-pass", "winograd", *SMALL],
        "--without-pass winograd, which portable lacks; expected one of scale_image$",
    ),
    "no target": (["trt", "good.onnx", "--target", "pascal"], "'pascal'; expected .*sm86"),
    "no command": (["convert", "seeded.pth"], "No such command"),
}


def check_one_line(result: subprocess.CompletedProcess[str], expected: str) -> None:
    """Exit code 2 and, after what is told of the progress, one line that says what is wrong."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 1) + [True]
    assert re.search(expected, lines[-1]), lines[-1]
    assert result.stdout == ""


@pytest.fixture(scope="module")
def answers(
    workplace: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[subprocess.CompletedProcess[str], Path]]:
    """What each bad input gave, and the folder that it was to write in."""
    folder = tmp_path_factory.mktemp("answers")
    before = sorted(workplace.rglob("*"))
    orders = []
    for number, (arguments, _) in enumerate(BAD_INPUTS.values()):
        (folder / str(number)).mkdir()
        orders.append([*arguments, "-o", str(folder / str(number) / "model.out")])
    done = run_commands(orders, workplace, tmp_path_factory.mktemp("said"))
    assert sorted(workplace.rglob("*")) == before
    folders = [folder / str(number) for number in range(len(orders))]
    return dict(zip(BAD_INPUTS, zip(done, folders, strict=True), strict=True))


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line(
    answers: dict[str, tuple[subprocess.CompletedProcess[str], Path]], case: str
) -> None:
    result, folder = answers[case]
    check_one_line(result, BAD_INPUTS[case][1])
    assert len(result.stderr.splitlines()) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("nowhere/model.onnx", "nowhere' does not exist.*mkdir -p"),
        ("folder.pth", "folder.pth' is a directory"),
        ("/proc/model.onnx", "/proc' cannot be written to"),
    ],
)
def test_an_output_that_cannot_be_written(workplace: Path, output: str, expected: str) -> None:
    before = sorted(workplace.rglob("*"))
    result = dabnet_export("onnx", "seeded.pth", "-o", output, *SMALL, folder=workplace)
    check_one_line(result, expected)
    assert sorted(workplace.rglob("*")) == before


def test_a_target_that_the_builder_does_not_know(workplace: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    output = tmp_path / "m.engine"
    result = dabnet_export(
        "trt", "good.onnx", "-o", str(output), "--target", "sm99", folder=workplace
    )
    check_one_line(result, "takes no target sm99; expected one of .*sm86")
    assert list(tmp_path.iterdir()) == []


def test_a_pass_that_the_target_of_an_engine_lacks(workplace: Path, tmp_path: Path) -> None:
    """Its target is that of the product, whichever ``onnx`` would have taken."""
    pytest.importorskip("tensorrt_rtx")
    words = ["trt", "seeded.pth", "-o", str(tmp_path / "m.engine"), "--target", "sm86", *SMALL]
    result = dabnet_export(*words, "--without-pass", "winograd", folder=workplace)
    check_one_line(result, "winograd, which tensorrt-rtx lacks; expected one of scale_image, sink")
    assert list(tmp_path.iterdir()) == []
    passes_of_it = ("prelu_as_max", "pools_as_slices")
    check_passes(passes_of_it, "tensorrt-rtx")
    ExportSpec(SIZE, without_passes=passes_of_it)  # before the product is known


@pytest.fixture(scope="module")
def exported(
    workplace: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """An ONNX file alone in its folder, and what the command said."""
    folder = tmp_path_factory.mktemp("exported")
    words = ["onnx", str(workplace / "public.pth"), "--dataset", "toy-street", "-o", "model.onnx"]
    done = dabnet_export(*words, *SMALL, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "model.onnx", done


def test_an_export_says_what_it_wrote(
    exported: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    path, done = exported
    assert list(path.parent.iterdir()) == [path]
    agreement = manifest_of(load_onnx(path), "model.onnx").agreement
    assert agreement is not None and agreement.checkpoint_miou is not None
    miou = f"{100 * agreement.checkpoint_miou:.1f} %"
    assert done.stdout.splitlines() == [
        f"model.onnx  ({path.stat().st_size / 1e6:.1f} MB)",
        "  dabnet on toy-street, fp32, 64x96, batch 1, opset 17",
        "  scale_image for portable: 1",
        f"  agrees with PyTorch FP32 on {100 * agreement.mean:.3f} % of pixels"
        f" (worst image {100 * agreement.worst:.3f} %; 8 images of toy-street val)",
        f"  mIoU on 8 images of toy-street val: checkpoint {miou}, artifact {miou}",
        "  so low an mIoU is often a wrong --mean, --scale, --dilations or --classes",
    ]
    assert agreement.artifact_miou is not None
    assert agreement.artifact_miou == pytest.approx(agreement.checkpoint_miou, abs=1e-4)


def test_a_public_checkpoint_with_own_classes(tmp_path: Path) -> None:
    """As another trainer writes it: a prefix, and an output that stands for no class."""
    (tmp_path / "classes.txt").write_text("road\ntree\nsky\n")
    torch.manual_seed(5)
    network = build_model("lednet", 4)
    with torch.no_grad():
        network(torch.rand(2, 3, *SIZE))  # BatchNorms that see data
    state = {f"module.{name}": x for name, x in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "public.pth")
    given = ["--model", "lednet", "--classes", "classes.txt", "--void", "first"]
    done = dabnet_export("onnx", "public.pth", "-o", "m.onnx", *SMALL, *given, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "  lednet on folder, fp32, 64x96" in done.stdout
    assert "  first of 4 outputs dropped: it stands for no class" in done.stdout
    assert "mIoU" not in done.stdout  # drawn scenes have other classes
    manifest = manifest_of(load_onnx(tmp_path / "m.onnx"), "m")
    assert (manifest.model, manifest.classes) == ("lednet", ("road", "tree", "sky"))
    assert manifest.preprocessing.scale == (1 / 255, 1 / 255, 1 / 255)
    assert manifest.agreement is not None and manifest.agreement.checkpoint_miou is None


def test_an_engine_of_an_onnx_file(
    workplace: Path, exported: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    built = dabnet_export(
        "trt", str(exported[0]), "-o", "model.engine", "--target", "sm86", folder=tmp_path
    )
    assert built.returncode == 0, built.stderr
    engine, beside = tmp_path / "model.engine", tmp_path / "model.engine.json"
    assert sorted(tmp_path.iterdir()) == [engine, beside]
    assert engine.stat().st_size > 500_000
    stored = Manifest.from_json(beside.read_text(encoding="utf-8"), "beside")
    assert stored.onnx_sha256 == sha256_of_file(exported[0])
    assert stored.checkpoint_sha256 == sha256_of_file(workplace / "public.pth")
    assert stored.engine is not None and stored.agreement is not None
    assert (stored.engine.product, stored.engine.target) == ("tensorrt_rtx", "sm86")
    assert stored.engine.layers_by_type.get("Float", 0) >= 60  # at least the convolutions
    # The engine cannot run here, and the line says which file was compared.
    share = f"{100 * stored.agreement.mean:.3f} %"
    assert f"  its ONNX file agrees with PyTorch FP32 on {share}" in built.stdout
    assert re.search(r"  tensorrt_rtx \S+ for sm86; layers: \d+ Float", built.stdout)


def test_an_export_of_floats_loads_nothing_of_int8(workplace: Path, tmp_path: Path) -> None:
    """The road reads in one file; INT8, with its calibration, is a turn that only INT8 takes."""
    program = (
        "import sys; from pathlib import Path; import export.cli.main as main\n"
        "sys.argv[1:] = ['onnx', sys.argv[1], '-o', 'm.onnx', *sys.argv[2:]]\n"
        "try: main.main()\n"
        "finally: print('loaded:', [m for m in sys.modules\n"
        "    if m.startswith(('calibration', 'export.int8', 'export.engine.'))])"
    )
    checkpoint = str(workplace / "seeded.pth")
    for target in ("portable", "ort-cpu"):
        done = run_python(program, checkpoint, *SMALL, "--optimize-for", target, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "loaded: ['export.engine.spec']" in done.stdout  # for the options of trt


@pytest.mark.parametrize("command", ["", "onnx", "trt", "calibration", "inspect", "verify"])
def test_help_loads_no_framework(command: str, tmp_path: Path) -> None:
    """Half a second of ``--help`` is lost with the first import of torch."""
    program = (
        "import sys; import export.cli.main\n"
        "try: export.cli.main.main()\n"
        "finally: print('heavy:', [m for m in ('torch', 'onnx', 'numpy') if m in sys.modules])"
    )
    result = run_python(program, *command.split(), "--help", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Usage:" in result.stdout
    assert "heavy: []" in result.stdout
