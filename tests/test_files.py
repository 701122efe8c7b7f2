"""Files are replaced whole or not at all, and what cannot be used is said in one line."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

import pytest

from dabnet.errors import InputError
from dabnet.files import (
    existing_directory,
    existing_file,
    replacing,
    sha256_of_file,
    writable_directory,
    writable_target,
    write_text,
)


def test_replacing_shows_the_old_file_until_the_block_succeeds(tmp_path: Path) -> None:
    target = tmp_path / "model.pth"
    target.write_text("old")
    with replacing(target) as temporary:
        assert temporary.parent == tmp_path  # a rename is atomic within one file system only
        assert temporary.suffix == ".pth"
        temporary.write_text("new, half")
        assert target.read_text() == "old"
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", ["old", None])
def test_a_failing_block_changes_nothing_and_leaves_nothing(
    tmp_path: Path, failure: type[BaseException], old: str | None
) -> None:
    target = tmp_path / "model.pth"
    if old is not None:
        target.write_text(old)
    with pytest.raises(failure), replacing(target) as temporary:
        temporary.write_text("half of it")
        raise failure
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == (
        {"model.pth": old} if old else {}
    )


def test_a_failing_rename_leaves_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "model.pth"
    target.mkdir()  # a file cannot be renamed over a directory
    with pytest.raises(InputError, match="could not be written"), replacing(target) as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask_and_leave_it_as_it_was(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "log.csv", "größe\n")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    mode = stat.S_IMODE((tmp_path / "log.csv").stat().st_mode)
    assert mode == 0o666 & ~umask
    assert (tmp_path / "log.csv").read_bytes() == "größe\n".encode()


def test_existing_file_and_directory(tmp_path: Path) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.write_bytes(b"x")
    empty.touch()
    assert existing_file(str(full), "a model") == full
    assert existing_directory(str(tmp_path), "the data") == tmp_path
    for path, message in [
        (tmp_path / "none", "no file at .*none'; expected a model; check the path"),
        (full / "below", "no file at"),
        (tmp_path, "is a directory; expected a model"),
        (empty, "empty' is empty"),
        (tmp_path / ("n" * 300), "cannot be looked up .*too long"),
        ("nul\0", "no file at"),
    ]:
        with pytest.raises(InputError, match=message):
            existing_file(path, "a model")
    for path, message in [
        (tmp_path / "none", "no directory at .*none'; expected the data"),
        (full, "is a file; expected the data"),
        (tmp_path / ("n" * 300), "cannot be looked up"),
    ]:
        with pytest.raises(InputError, match=message):
            existing_directory(path, "the data")


def test_writable_target_and_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    assert writable_target(file) == file
    assert writable_target(tmp_path / "new") == tmp_path / "new"
    assert writable_directory(tmp_path / "a" / "b").is_dir()
    for path, message in [
        (tmp_path, "is a directory; expected the name of a file"),
        (tmp_path / "none" / "x", "none' does not exist.*mkdir -p"),
        (file / "x", "file. is a file; expected a directory"),
        (tmp_path / "n\0l", "embedded null byte"),
        (tmp_path / ("n" * 300), "cannot be looked up"),
    ]:
        with pytest.raises(InputError, match=message):
            writable_target(path)
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "hard").hardlink_to(file)
    for output in ("file", "link", "hard"):
        for sources in ([file], [tmp_path / "other", tmp_path / "." / "file"]):
            with pytest.raises(InputError, match="is the input .*; name another output"):
                writable_target(tmp_path / output, *sources)
    for path in (file, file / "x"):
        with pytest.raises(InputError, match="is a file; expected a directory"):
            writable_directory(path)
    with pytest.raises(InputError, match="cannot be created .*too long"):
        writable_directory(tmp_path / ("n" * 300))

    # Tests may run as root, whom no permission stops.
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(InputError, match="cannot be written to"):
        writable_target(tmp_path / "new")
    with pytest.raises(InputError, match="cannot be written to"):
        writable_directory(tmp_path)
    assert file.read_text() == "kept"


def test_sha256_reads_beyond_one_block(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # 1.28 MB: more than one block
    (tmp_path / "f").write_bytes(content)
    assert sha256_of_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()
