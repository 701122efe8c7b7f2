"""A record tells nothing of who measured, nor where: a real run in a home of telling names."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.candidates import Asked, candidates
from bench.record import Picture, Report
from bench.record.file import read_record, write_record
from bench.record.private import Names, private
from bench.report.write import write_report
from dabnet.given import Given
from tests.support import ROOT
from tests.support.processes import DABNET_BENCH, run_python, write_known_peaks
from tests.support.sample_reports import sample_report
from tests.support.seeded_checkpoint import write_checkpoint

USER, HOST = "secretuser", "secrethost"
PACKAGE = """
import ctypes
from pathlib import Path

from bench.backends.base import Recipe
from dabnet.runtime.runner import NullRunner, RunnerInfo


class Telling(NullRunner):
    def __init__(self, shape, home, what):
        super().__init__(shape)
        notes = (f"plan of {home}/my plans/x.plan", "read by secretuser on secrethost.lan")
        self._info = RunnerInfo("telling", "1.0", "cpu", "fp32", shape, notes)
        if what == "raise":
            raise OSError(f"[Errno 2] '{home}/my plans/x.plan' of secretuser@secrethost.lan")
        if what == "crash":
            ctypes.string_at(0)


class Backend:
    name, variants = "telling", ("notes", "raise", "crash")

    def by_default(self, device):
        return ()

    def prepare(self, variant, setting, workshop):
        shape = (setting.batch, *setting.size, 3)
        arguments = {"shape": shape, "home": str(Path.home()), "what": variant}
        return Recipe(Telling, arguments, workshop.checkpoint_path)


BACKEND = Backend()
"""


def told_in(folder: Path, *secrets: str) -> Iterator[str]:
    """Each secret that a file of a run holds, and where."""
    for path in folder.glob("bench.*"):
        text = path.read_text(encoding="utf-8")
        for secret in secrets:
            # A short name of a machine may be a part of a word of the page.
            if found := re.search(rf"(?<![\w-]){re.escape(secret)}(?![\w-])", text):
                yield f"{path.name}: {text[max(0, found.start() - 60) : found.end() + 20]!r}"


def test_a_run_leaves_no_path_and_no_name_of_user_or_host_in_its_record(tmp_path: Path) -> None:
    home, packages = tmp_path / "homes of" / USER, tmp_path / "packages"
    info = packages / "telling-1.0.dist-info"
    photos = tmp_path / "photos of" / USER
    for folder in (home, photos, info):
        folder.mkdir(parents=True)
    (packages / "telling.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: telling\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dabnet.backends]\ntelling = telling:BACKEND\n")
    write_checkpoint(home)
    write_known_peaks(home / "cache")
    pixels = np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8)
    Image.fromarray(pixels).save(photos / "street.png")
    words = [home / "seeded.pth", "--images", photos, "--size", "32x64", "--threads", "1"]
    words += ["--rounds", "2", "--min-time", "0.01", "--pictures", "1", "--backend", "telling"]
    words += ["--cache-dir", home / "cache", "--output", home / "my runs" / "bench"]
    done = run_python(
        f"import platform; platform.node = lambda: '{HOST}.lan'; {DABNET_BENCH}",
        *words,
        folder=home,
        PYTHONPATH=os.pathsep.join([str(ROOT), str(packages)]),
        **dict.fromkeys(("USER", "LOGNAME", "LNAME", "USERNAME"), USER),
        HOME=str(home),
    )
    assert done.returncode == 0, done.stderr
    output = home / "my runs" / "bench"
    assert {path.name for path in output.glob("bench.*")} == {
        *("bench.json", "bench.csv", "bench.md", "bench.html"),
    }
    folders = ("homes of", "photos of", "my plans", "my runs", str(tmp_path))
    found = [*told_in(output, USER, HOST, platform.node(), *folders)]
    assert not found, found
    record = json.loads((output / "bench.json").read_text(encoding="utf-8"))
    assert (record["dataset"], record["images"]) == ("images", ["street.png"])
    assert record["subjects"][0]["file"] == "seeded.pth"
    notes, raised, crashed = record["rows"]
    assert notes["info"]["notes"] == ["plan of x.plan", "read by USER on HOST"]
    assert raised["reason"] == "failed: OSError: [Errno 2] 'x.plan' of USER@HOST"
    assert crashed["reason"].endswith("; log: 'telling-crash-accuracy.log'")


OURS = Names(frozenset({"ann"}), frozenset({"lab7", "lab7.example.org"}), frozenset({"/data/a b"}))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("no file at '/home/bob/my models/x.pth'; expected", "no file at 'x.pth'; expected"),
        ("log: /mnt/disk/my runs/x.log of /mnt/y and more", "log: x.log of y and more"),
        ("Load model from /data/a b/c/x.onnx failed:gone", "Load model from x.onnx failed:gone"),
        ("(C:\\Users\\bob\\x.dll, D:/y/z.dll)", "(x.dll, z.dll)"),
        ('File "/usr/lib/python3/site.py", line 3', 'File "site.py", line 3'),
        ("~/x/y.pth and ../../bob/z.pth", "y.pth and z.pth"),
        ("file:///tmp/x/y.bin", "y.bin"),
        ("no directory at '/home/bob'", "no directory at '~'"),
        ("in use by dabnet-bench (process 7 on lab7.example.org, since", None),
        ("ann of lab7, not annotated of lab71", "USER of HOST, not annotated of lab71"),
        # No paths: units, slashes of words, tensors, addresses.
        *(
            (text, text)
            for text in ("5 images/s, Q/DQ", "node '/block/Conv_1' on the CPU", "a/b/c")
        ),
        ("see https://pypi.org/project/torch", "see https://pypi.org/project/torch"),
    ],
)
def test_what_a_text_is_left(text: str, left: str | None) -> None:
    expected = text.replace("lab7.example.org", "HOST") if left is None else left
    assert OURS.left_out_of(text) == expected


@given(st.text("ab/\\~.:'\" Chometp", max_size=30))
def test_a_text_that_is_private_stays_as_it_is(text: str) -> None:
    once = OURS.left_out_of(text)
    assert OURS.left_out_of(once) == once


def telling() -> Report:
    """A record as an earlier version, or another program, may have written it."""
    report = sample_report(dataset="/home/bob/street")
    subject = replace(report.subjects[0], file="/home/bob/x.pth")
    first, second, *others = report.rows
    assert first.info
    info = replace(first.info, notes=("cache '/home/bob/a b/x.bin'",))
    manifest = {"agreement": {"images": "8 images of /home/bob/frames"}, "logits": "/net/x"}
    first = replace(first, info=info, artifact="C:\\Users\\bob\\x.onnx", manifest=manifest)
    second = replace(second, reason="no file at '/home/bob/a b/x.pth'")
    pictures = (Picture("a", "image", "/home/bob/x.jpg"), Picture("a", "truth", "pictures/x.jpg"))
    rows = (first, second, *others)
    return replace(report, subjects=(subject,), rows=rows, pictures=pictures)


def test_a_record_of_another_is_private_when_it_is_reported(tmp_path: Path) -> None:
    write_report(telling(), tmp_path)
    assert [*told_in(tmp_path, "bob", "home", "Users")] == []
    kept = read_record(tmp_path / "bench.json")
    assert (kept.dataset, kept.subjects[0].file) == ("street", "x.pth")
    assert kept.rows[0].manifest == {
        "agreement": {"images": "8 images of frames"},
        "logits": "/net/x",
    }
    assert [picture.file for picture in kept.pictures] == ["x.jpg", "pictures/x.jpg"]
    assert kept.rows[0].artifact == "x.onnx" and kept.rows[1].reason == "no file at 'x.pth'"


def test_an_old_record_is_read_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("bench.record.file.private", lambda report: report)
        write_record(telling(), tmp_path / "bench.json")
    assert [*told_in(tmp_path, "bob")]
    assert read_record(tmp_path / "bench.json") == private(telling())


def test_no_row_is_called_after_the_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files of one name are told apart by their folders, but not by a home."""
    files = [tmp_path / folder / "seeded.pth" for folder in (USER, "runs")]
    for file in files:
        file.parent.mkdir()
    content = write_checkpoint(tmp_path / USER).read_bytes()
    files[1].write_bytes(content + b" ")
    monkeypatch.setenv("HOME", str(tmp_path / USER))
    found = candidates(Asked(files, (), (), Given(), [(32, 64)]))
    assert [candidate.subject.label for candidate in found] == ["seeded-1", "runs-seeded"]


def test_names_that_are_words_of_messages_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """In most containers the user is root; a machine may lack a folder for temporary files."""

    def none() -> str:
        raise FileNotFoundError("No usable temporary directory")

    monkeypatch.setattr("getpass.getuser", lambda: "root")
    monkeypatch.setattr("platform.node", lambda: "cpu")
    monkeypatch.setattr("tempfile.gettempdir", none)
    text = "needs root; ran on cpu"
    assert Names.of_this_machine().left_out_of(text) == text
