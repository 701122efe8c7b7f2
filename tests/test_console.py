"""The commands as a user meets them: one line for what they can mend, and an exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest
import torch
from PIL import Image

from bench.cli.main import bench_command
from dabnet.cli import main, train_command
from dabnet.console import Factors, Size
from dabnet.data.toy_street import write_camvid_tree
from export.cli.main import export_group
from tests.support.processes import run_python

COMMANDS = ("dabnet.cli", "dabnet.data_cli", "export.cli.main", "bench.cli.main")


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
        ("bench.cli.main", [], "nothing to measure; expected a FILE"),
        ("bench.cli.main", ["x", "--target-width", "0.02"], "a percentage from 0.1% to 50%"),
        ("bench.cli.main", ["x", "--rounds", "1"], "--rounds"),
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
        (["--data_dir", "data", "--max_epochs", "0"], "'--max-epochs': 0.0 is not in"),
        (["--data-dir", "data", "--lr", "0"], "--lr 0.0"),
        (["--data-dir", "data", "--lr", "nan"], "'--lr': nan is not finite"),
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


def commands(command: click.Command) -> Iterator[click.Command]:
    """The command, and those below it."""
    yield command
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        yield from commands(below)


def number_options() -> Iterator[tuple[str, click.Parameter]]:
    """Each parameter of every command that takes 0.5, and would take NaN if it were not stopped."""
    for group in (train_command, export_group, bench_command):
        for command in commands(group):
            for parameter in command.params:
                with suppress(click.BadParameter, TypeError, AttributeError):
                    found = parameter.type.convert("0.5", None, None)
                    if found in (0.5, (0.5,)):
                        yield f"{command.name} {parameter.opts[0]}", parameter


def test_no_option_takes_a_number_that_is_not_finite() -> None:
    """No limit holds against NaN: a comparison with ``--max-slowdown nan`` would always pass."""
    options = dict(number_options())
    of_each = {"--lr", "--scales", "--max-drop", "--tolerance", "--min-time", "--max-slowdown"}
    assert of_each <= {name.split()[-1] for name in options}
    assert len(options) >= 18
    for name, option in options.items():
        for text in ("nan", "NaN", "inf", "-inf", "Infinity", "1e999"):
            if isinstance(option.type, Factors):
                text = f"1,{text}"
            with pytest.raises(click.BadParameter):
                option.type.convert(text, option, None)
                pytest.fail(f"{name} {text}")


@pytest.mark.parametrize(
    ("module", "words", "expected"),
    [
        ("bench.cli.main", ["compare", "a", "b", "--max-slowdown", "nan"], "'--max-slowdown': nan"),
        ("export.cli.main", ["verify", "a", "b", "--min-agreement", "nan"], "'--min-agreement': n"),
        ("dabnet.cli", ["--scales", "1,nan"], "'1,nan' is not a list of finite numbers"),
    ],
)
def test_nan_is_one_line(tmp_path: Path, module: str, words: list[str], expected: str) -> None:
    done = cli(module, *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_line(done.stderr, expected)
