"""The commands as a user meets them: one line for what they can mend, and an exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from PIL import Image

from dabnet.cli import main
from dabnet.console import Size
from dabnet.data.toy_street import write_camvid_tree
from tests.support.processes import run_python

COMMANDS = ("dabnet.cli", "export.cli.main", "bench.cli.main")


def python(code: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_python(code, *words, folder=cwd)


def cli(module: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return python(f"from {module} import main; main()", *words, cwd=cwd)


def assert_one_line(stderr: str, *expected: str) -> None:
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert stderr.endswith("\n")
    for text in expected:
        assert text in stderr


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with data and with things that are in the way."""
    folder = tmp_path / "here"
    write_camvid_tree(folder / "data", (32, 64), {"train": 2, "val": 1})
    (folder / "notes.txt").write_text("not a checkpoint\n")
    (folder / "old").mkdir()
    (folder / "old" / "last.pth").write_text("a run of hours")
    bad = write_camvid_tree(folder / "bad", (32, 64), {"train": 2, "val": 1})
    Image.new("L", (64, 32), 99).save(next(iter(sorted((bad / "trainannot").iterdir()))))
    (bad / "camvid_val_list.txt").unlink()
    monkeypatch.chdir(folder)
    return folder


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize(
    ("module", "words", "expected"),
    [
        ("dabnet.cli", ["--no-such-option"], "No such option"),
        ("dabnet.cli", ["--dataset", "kitti"], "'kitti' is not one of 'camvid', 'cityscapes'"),
        ("dabnet.cli", ["--input-size", "512"], "expected HEIGHTxWIDTH"),
        ("dabnet.cli", ["--seed", str(2**70)], "not in the range"),
        ("dabnet.cli", ["--data-dir", "nowhere"], "no directory at 'nowhere'"),
        ("dabnet.cli", ["--resume", "notes.txt"], "cannot be read as a checkpoint"),
        ("export.cli.main", [], "Missing command"),
        ("export.cli.main", ["onnx"], "Missing argument 'CHECKPOINT'"),
        ("bench.cli.main", [], "Missing argument 'CHECKPOINT'"),
    ],
)
def test_bad_input_of_a_real_process_is_one_line_and_code_2(
    here: Path, module: str, words: list[str], expected: str
) -> None:
    before = snapshot(here)
    done = cli(module, *words, cwd=here)
    assert done.returncode == 2
    assert_one_line(done.stderr, expected)
    assert done.stdout == ""
    assert snapshot(here) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "no --data-dir for camvid"),
        (["--data-dir", "notes.txt"], "'notes.txt' is a file"),
        (["--data-dir", "bad"], "the val split is not in 'bad'"),
        (["--data-dir", "data", "--input-size", "32x60"], "the nearest is 32x64"),
        (["--data-dir", "data", "--input_size", "0x0"], "image size 0x0"),
        (["--data-dir", "data", "--batch-size", "1"], "at least 2 (batch normalisation)"),
        (["--data-dir", "data", "--batch-size", "3"], "--batch-size 3 with 2 training images"),
        (["--data_dir", "data", "--max_epochs", "0"], "--max-epochs 0"),
        (["--data-dir", "data", "--lr", "0"], "--lr 0.0"),
        (["--data-dir", "data", "--lr", "nan"], "--lr nan"),
        (["--data-dir", "data", "--batch-size", "2", "--output", "notes.txt"], "is a file"),
        (["--data-dir", "data", "--output", "old"], "'old' holds another run"),
        (["--resume", "none.pth"], "no file at 'none.pth'"),
        (["--resume", "data"], "'data' is a directory"),
        pytest.param(
            ["--data-dir", "data", "--device", "cuda"],
            "use --device cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here"),
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    expected: str,
) -> None:
    before = snapshot(here)
    monkeypatch.setattr(sys, "argv", ["dabnet-train", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert_one_line(capfd.readouterr().err, expected)
    assert snapshot(here) == before


HELP = """
import sys
from {module} import main
try:
    main()
except SystemExit as stop:
    code = stop.code
heavy = {{"torch", "onnx", "onnxruntime", "matplotlib", "tensorrt", "tensorrt_rtx"}}
sys.stderr.write(f"code {{code}}, loaded {{sorted(heavy & set(sys.modules))}}")
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        *((module, ["--help"]) for module in COMMANDS),
        *((module, ["--version"]) for module in COMMANDS),
        ("export.cli.main", ["onnx", "-h"]),
        ("export.cli.main", ["trt", "-h"]),
    ],
)
def test_help_is_light(tmp_path: Path, module: str, words: list[str]) -> None:
    done = python(HELP.format(module=module), *words, cwd=tmp_path)
    assert done.stderr == "code 0, loaded []"
    assert ("Usage:" in done.stdout) == ("--version" not in words)


RUN = """
import signal, sys, click
from dabnet.console import run
from dabnet.errors import DabnetError

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs

@click.command()
def command():
    {body}

run(command)
"""


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("signal.raise_signal(signal.SIGINT)", 130, "interrupted"),
        ("raise click.Abort", 130, "interrupted"),
        ("return 130", 130, ""),
        ("return None", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("raise DabnetError('two\\nlines', 'one', 'join them')", 2, None),
        ("raise click.UsageError('two\\nlines; expected one; join them')", 2, None),
    ],
)
def test_how_a_command_ends(tmp_path: Path, body: str, code: int, stderr: str | None) -> None:
    done = python(RUN.format(body=body), cwd=tmp_path)
    assert done.returncode == code
    assert done.stdout == ""
    if stderr is None:
        assert done.stderr == "error: two lines; expected one; join them\n"
    else:
        assert done.stderr.strip() == stderr


def test_a_fault_of_the_project_keeps_its_traceback(tmp_path: Path) -> None:
    done = python(RUN.format(body="{}['key']"), cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("KeyError: 'key'\n")


def test_sizes_are_height_by_width() -> None:
    size = Size()
    assert size.convert("512x1024", None, None) == (512, 1024)
    assert size.convert(" 360,480 ", None, None) == (360, 480)
    assert size.convert((8, 16), None, None) == (8, 16)
    for text in ("512", "x", "512x", "-8x16", "8x16x3", "8.5x16", ""):
        with pytest.raises(click.BadParameter, match="is not a size; expected HEIGHTxWIDTH"):
            size.convert(text, None, None)
