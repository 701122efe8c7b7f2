"""``dabnet-export verify`` and ``inspect`` as a user meets them, in real processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from dabnet.files import sha256_of_file
from dabnet.runtime.manifest import EngineInfo, engine_manifest_path
from tests.support.contract_graph import (
    CLASSES,
    HEIGHT,
    WIDTH,
    add_manifest,
    contract_manifest,
    write_contract,
)
from tests.support.forked_commands import run_commands
from tests.support.processes import DABNET_EXPORT, environment, run_python
from tests.support.seeded_checkpoint import noise, write_checkpoint


def dabnet_export(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return run_python(DABNET_EXPORT, *arguments, folder=folder)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of one small network, images to compare them on, and bad inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    fp32 = write_contract(folder)
    write_contract(folder, "int8")
    write_checkpoint(folder)
    model = onnx.load(fp32)
    (weight,) = (t for t in model.graph.initializer if t.name == "third_w")
    values = numpy_helper.to_array(weight).copy()
    values[4] *= -3
    weight.CopyFrom(numpy_helper.from_array(values, "third_w"))
    onnx.save(add_manifest(model, contract_manifest()), folder / "faulty.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "bare.onnx")
    lines = [f"{10 * index} 0 0\tclass {index}\n" for index in range(CLASSES)]
    (folder / "classes.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "damaged.onnx").write_bytes(fp32.read_bytes()[:2000])
    (folder / "lonely.engine").write_bytes(b"plan")
    (folder / "images").mkdir()
    for seed in range(3):
        picture = Image.fromarray(noise((1, 2 * HEIGHT, 2 * WIDTH, 3), seed)[0])
        picture.save(folder / "images" / f"scene{seed}.png")
    (folder / "none").mkdir()
    (folder / "link").symlink_to(FP32)
    (folder / "linked").symlink_to("images", target_is_directory=True)
    (folder / "built.engine").write_bytes(b"plan")
    for name in ("built.engine.json", "x.json", "y.json", "y.cache.json", "new.json.partial"):
        (folder / name).write_text("{}")
    (folder / "z.json").symlink_to("y.json")
    return folder


FP32, INT8 = "contract-fp32-uint8.onnx", "contract-int8-uint8.onnx"
BAD_INPUTS = {
    "missing": (["verify", FP32, "nowhere.onnx"], "no file at 'nowhere.onnx'"),
    "no images": (["verify", FP32, INT8, "--images", "none"], "no image in 'none'"),
    "no folder": (["verify", FP32, INT8, "--images", "nothing"], "no directory at 'nothing'"),
    "other classes": (["verify", FP32, "seeded.pth"], "5 classes .* 11 classes"),
    "no manifest": (
        ["verify", FP32, "bare.onnx"],
        "'bare.onnx' carries no manifest; .*describe it with --dataset or --classes$",
    ),
    "classes of files that have some": (
        ["verify", FP32, INT8, "--classes", "classes.txt"],
        "--classes for these files; expected a file without a manifest; leave them out",
    ),
    "void of files without outputs to drop": (
        ["verify", FP32, "bare.onnx", "--classes", "classes.txt", "--void", "last"],
        "--void for these files; expected a public checkpoint; leave them out",
    ),
    "inspect what says it itself": (
        ["inspect", FP32, "--dataset", "camvid"],
        "--dataset for the onnx 'contract-fp32-uint8.onnx'; expected a checkpoint; leave",
    ),
    "classes twice": (
        ["verify", FP32, "bare.onnx", "--classes", "classes.txt", "--dataset", "camvid"],
        "--dataset camvid and --classes 'classes.txt'; expected one of them",
    ),
    "no such device": (
        ["verify", FP32, INT8, "--device", "mps"],
        "device 'mps'; expected cpu, cuda",
    ),
    "worst of what": (["verify", FP32, INT8, "--worst", "2"], "add --output DIR"),
    "a tolerance of masks": (
        ["verify", FP32, INT8, "--tolerance", "0.1"],
        "--tolerance for masks alone; expected a comparison of layers; add --layers",
    ),
    "layers of a checkpoint": (
        ["verify", "seeded.pth", "seeded.pth", "--layers"],
        "--layers with the checkpoint",
    ),
    "unwritable record": (["verify", FP32, INT8, "--json", "no/x.json"], "'no' does not exist"),
    "record over A": (["verify", FP32, INT8, "--json", FP32], "is the input itself; .*another"),
    "record over B": (["verify", FP32, INT8, "--json", f"none/../{INT8}"], f"is the input '{INT8}"),
    "record over A by a link": (["verify", FP32, INT8, "--json", "link"], f"is the input '{FP32}'"),
    "record over a manifest": (
        ["verify", FP32, "built.engine", "--json", "built.engine.json"],
        "'built.engine.json' is the input itself",
    ),
    "record over an image": (
        ["verify", FP32, INT8, "--images", "images", "--json", "images/scene1.png"],
        "'images/scene1.png' exists and is not a record of dabnet-export verify",
    ),
    "pictures among the images": (
        ["verify", FP32, INT8, "--images", "images", "--output", "images/worst"],
        "--output 'images/worst' in the folder of the images 'images'; .*name another output",
    ),
    "pictures among the images by a link": (
        ["verify", FP32, INT8, "--images", "images", "--output", "linked"],
        "--output 'linked' in the folder of the images",
    ),
    "merged over a source": (
        ["calibration", "x.json", "y.json", "-o", "y.json"],
        "the output 'y.json' is the input itself",
    ),
    "merged over a source by a link": (
        ["calibration", "x.json", "y.json", "-o", "z.json"],
        "the output 'z.json' is the input 'y.json'",
    ),
    "a cache whose origin is a source": (
        ["calibration", "x.json", "y.cache.json", "-o", "y.cache", "--tensorrt", "8.6.1"],
        "the output 'y.cache.json' is the input itself",
    ),
    "a source that would be removed as a partial result": (
        ["calibration", "x.json", "new.json.partial", "-o", "new.json"],
        "'new.json.partial' is the input itself",
    ),
    "damaged": (["inspect", "damaged.onnx"], "cannot be read as ONNX"),
    "engine alone": (["inspect", "lonely.engine"], "'lonely.engine' has no manifest beside it"),
    "inspect a folder": (["inspect", "images"], "'images' is a directory"),
}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def test_bad_input_is_one_line(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = contents(workplace)
    orders = [arguments for arguments, _ in BAD_INPUTS.values()]
    done = run_commands(orders, workplace, tmp_path_factory.mktemp("said"))
    assert contents(workplace) == before
    for (case, (_, expected)), result in zip(BAD_INPUTS.items(), done, strict=True):
        (line,) = result.stderr.splitlines()
        assert (result.returncode, line.startswith("error: ")) == (2, True), (case, line)
        assert re.search(expected, line), (case, line)
        assert result.stdout == "", case


def test_a_file_of_another_tool(workplace: Path) -> None:
    """Described by a file of classes, its masks are compared like those of any other."""
    arguments = ("verify", "bare.onnx", "faulty.onnx", "--classes", "classes.txt", "--limit", "2")
    done = dabnet_export(*arguments, "--device", "cpu", "--json", "v.json", folder=workplace)
    assert done.returncode == 0, done.stderr
    record = json.loads((workplace / "v.json").read_text(encoding="utf-8"))
    (workplace / "v.json").unlink()
    assert record["agreement"]["mean"] == 1  # one is the other without its manifest
    assert record["a"]["note"] == "carries no manifest: its classes are those that were given"
    assert record["b"]["note"] == ""
    assert [entry["name"] for entry in record["classes"]] == [f"class {i}" for i in range(CLASSES)]
    assert "carries no manifest" in done.stdout


@pytest.fixture(scope="module")
def compared(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two ONNX files that differ in one weight, compared: the folder of outputs, and stdout."""
    folder = tmp_path_factory.mktemp("compared")
    arguments = ["verify", FP32, "faulty.onnx", "--images", "images", "--layers"]
    outputs = ["--output", str(folder / "worst"), "--worst", "2", "--json", str(folder / "r")]
    done = dabnet_export(*arguments, *outputs, folder=workplace)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


def test_verify_two_onnx_files(compared: tuple[Path, str]) -> None:
    folder, said = compared
    record = json.loads((folder / "r").read_text())
    assert f"3 images of images at {HEIGHT}x{WIDTH}" in said
    assert f"{100 * record['agreement']['mean']:.3f}" in said
    assert 0 < record["agreement"]["mean"] < 1
    assert [entry["name"] for entry in record["classes"]] == [f"class {i}" for i in range(CLASSES)]
    assert sum(entry["pixels_a"] for entry in record["classes"]) == 3 * HEIGHT * WIDTH
    assert record["logits"]["max_abs"] > 0


def test_verify_names_where_the_graphs_part(compared: tuple[Path, str]) -> None:
    folder, said = compared
    record = json.loads((folder / "r").read_text())
    assert record["layers"]["parting"]["node_b"] == "third (Conv)"
    assert "they part at third " in said
    assert "reads second: equal" in said


def test_verify_draws_the_worst_images(compared: tuple[Path, str]) -> None:
    folder, _ = compared
    images = json.loads((folder / "r").read_text())["per_image"]
    order = sorted(images, key=lambda image: image["agreement"])
    assert sorted(path.name for path in (folder / "worst").iterdir()) == [
        f"worst_0{place}_{Path(image['name']).stem}.png"
        for place, image in enumerate(order[:2], start=1)
    ]


def test_verify_on_drawn_scenes_fails_below_the_minimum(workplace: Path) -> None:
    arguments = ["verify", FP32, "faulty.onnx", "--limit", "1", "--min-agreement", "0.9999"]
    done = dabnet_export(*arguments, folder=workplace)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("% is below --min-agreement 99.99 %")
    assert "1 images of toy-street val" in done.stdout


def test_an_engine_that_cannot_run_here_is_one_line(workplace: Path, tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"plan")
    info = EngineInfo(
        *("tensorrt", "0.0.0", "this-gpu", "no card", "0.0", "0", {"Float": 4}),
        sha256=sha256_of_file(engine),
    )
    manifest = contract_manifest()
    object.__setattr__(manifest, "engine", info)
    engine_manifest_path(engine).write_text(manifest.to_json())
    done = dabnet_export("verify", FP32, str(engine), folder=workplace)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    told = dabnet_export("inspect", str(engine), folder=workplace)
    assert (told.returncode, told.stderr) == (0, "")
    assert "fp32              4" in told.stdout


def test_inspect_prints_json_alone(workplace: Path) -> None:
    done = dabnet_export("inspect", INT8, "--json", folder=workplace)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    assert (record["kind"], record["precisions"]) == ("onnx", {"int8": 4})
    assert record["layers"][0]["operator"] == "Conv"
    shown = dabnet_export("inspect", "bare.onnx", "--layers", folder=workplace)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "no manifest: not written by dabnet-export" in shown.stdout
    assert "logits_half" in shown.stdout


def test_ctrl_c_leaves_nothing(workplace: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for index in range(4000):
        (many / f"{index}.png").symlink_to(workplace / "images" / "scene0.png")
    record, pictures = tmp_path / "record.json", tmp_path / "pictures"
    arguments = ["verify", FP32, INT8, "--images", str(many), "--json", str(record)]
    process = subprocess.Popen(
        [sys.executable, "-c", DABNET_EXPORT, *arguments, "--output", str(pictures)],
        cwd=workplace,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not pictures.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pictures.exists()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, "", "interrupted")
    assert not record.exists()
    assert not pictures.exists()


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_help_loads_no_framework(command: str, tmp_path: Path) -> None:
    program = (
        "import sys; import export.cli.main\n"
        "try: export.cli.main.main()\n"
        "finally: print('heavy:', [m for m in ('torch', 'onnx', 'numpy') if m in sys.modules])"
    )
    done = run_python(program, command, "--help", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout
    assert "heavy: []" in done.stdout


def test_two_onnx_files_are_compared_without_torch(workplace: Path) -> None:
    """A machine that only runs artifacts has no torch; and its import takes seconds."""
    program = (
        "import sys; sys.modules['torch'] = None; from export.cli.main import main\n"
        f"sys.argv = ['x', 'verify', '{FP32}', '{INT8}', '--images', 'images']; main()"
    )
    done = run_python(program, folder=workplace)
    assert (done.returncode, done.stderr) == (0, "")
    assert "SQNR" in done.stdout
    assert np.isfinite(float(done.stdout.split("SQNR ")[1].split(" dB")[0]))
