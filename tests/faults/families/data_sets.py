"""Lists of images and files of classes, as people and other tools write them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.case import EITHER, FINE, REFUSED, Case, Expected
from tests.faults.damage import flipped, no_files
from tests.faults.families.images import folder_of_two
from tests.faults.originals import Originals

LIST = "camvid_train_list.txt"
CHECK_CAMVID = ("dabnet-data", "check", "d", "--dataset", "camvid", "--sheet", "sheet.png")
CHECK_FOLDER = ("dabnet-data", "check", "d", "--dataset", "folder", "--sheet", "sheet.png")


def cases() -> Iterator[Case]:
    yield from _lists()
    yield from _classes()


def _tree(folder: Path, originals: Originals) -> Path:
    root = folder / "d"
    shutil.copytree(originals.data, root)
    return root


def _lists() -> Iterator[Case]:
    for name, make, user in no_files():

        def lay(folder: Path, originals: Originals, make=make) -> list[str]:
            root = _tree(folder, originals)
            (root / LIST).unlink()
            make(root / LIST)
            folder.chmod(0o777)
            return [*CHECK_CAMVID]

        yield Case("list", f"is {name}", lay, REFUSED, ("sheet.png",), user=user)
    for name, change, expected in _texts():

        def lay_text(folder: Path, originals: Originals, change=change) -> list[str]:
            path = _tree(folder, originals) / LIST
            path.write_bytes(change(path.read_bytes()))
            return [*CHECK_CAMVID]

        yield Case("list", name, lay_text, expected, ("sheet.png",))


Change = Callable[[bytes], bytes]


def _texts() -> Iterator[tuple[str, Change, Expected]]:
    yield "CRLF", lambda t: t.replace(b"\n", b"\r\n"), FINE
    yield "UTF-16", lambda t: t.decode().encode("utf-16"), FINE
    yield "a byte order mark", lambda t: b"\xef\xbb\xbf" + t, FINE
    yield "tabs", lambda t: t.replace(b" ", b"\t"), FINE
    yield "not UTF-8", lambda t: b"\xff\xfe\x00" + t, REFUSED
    yield "NUL bytes", lambda t: bytes(5000) + t, REFUSED
    yield "blank lines only", lambda t: b"\n" * 1000, REFUSED
    yield "one word per line", lambda t: b"image\n", REFUSED
    yield "five words per line", lambda t: b"a b c d e\n", REFUSED
    yield "a missing image", lambda t: t + b"train/no.png trainannot/no.png\n", REFUSED
    yield "images out of the folder", lambda t: b"../../etc/passwd ../../etc/passwd\n", REFUSED
    yield "a system file", lambda t: b"/etc/passwd /etc/passwd\n", REFUSED
    yield "ESC", lambda t: b"\x1b[2J\x1b]0;x\x07.png b.png\n", REFUSED
    yield "NUL in a name", lambda t: b"a\0.png b\0.png\n", REFUSED
    yield "a name of 300 characters", lambda t: b"x" * 300 + b".png y.png\n", REFUSED
    yield "a path of 10000 folders", lambda t: b"x/" * 10_000 + b"a.png b.png\n", REFUSED
    yield "a line of 10 MB", lambda t: b"x" * 10_000_000, REFUSED
    yield "a line of a million gaps", lambda t: b"x " * 1_000_000, REFUSED
    yield "a million lines", lambda t: t.splitlines(True)[0] * 1_000_000, REFUSED
    yield "100 MB", lambda t: b"a.png b.png\n" * 9_000_000, REFUSED
    yield "quotes without end", lambda t: b"\"a.png 'b.png\n", REFUSED
    yield "labels in place of images", lambda t: t.replace(b"train/", b"trainannot/"), EITHER
    for seed in range(20):
        yield f"20 bits flipped, {seed}", lambda t, s=seed: flipped(t, s, 20), EITHER


def _classes() -> Iterator[Case]:
    for file in ("classes.txt", "classes.yaml"):
        for name, make, user in no_files():

            def lay(folder: Path, _: Originals, make=make, file=file) -> list[str]:
                root = folder_of_two(folder)
                (root / "classes.txt").unlink()
                make(root / file)
                folder.chmod(0o777)
                return [*CHECK_FOLDER]

            case = f"{file} is {name}"
            yield Case("classes", case, lay, REFUSED, ("sheet.png",), user=user)
    for name, content, expected in _class_files():

        def lay_text(folder: Path, _: Originals, name=name, content=content) -> list[str]:
            root = folder_of_two(folder)
            (root / "classes.txt").unlink()
            suffix = "yaml" if name.startswith("YAML") else "txt"
            (root / f"classes.{suffix}").write_bytes(content)
            return [*CHECK_FOLDER]

        yield Case("classes", name, lay_text, expected, ("sheet.png",))


def _class_files() -> Iterator[tuple[str, bytes, Expected]]:
    six = b"road\ncar\ntree\nsky\nsign\nfence\n"
    yield "six names", six, FINE
    yield "one name", b"road\n", REFUSED
    yield "300 names", b"".join(b"class %d x\n" % k for k in range(300)), REFUSED
    yield "a name twice", six + b"road\n", REFUSED
    yield "a colour twice", b"1 2 3 a\n1 2 3 b\n" + six, REFUSED
    yield "a colour of 999", b"999 0 0 a\n" + six, REFUSED
    yield "a name of ESC", six + b"\x1b[31mred\n", REFUSED
    yield "a name that turns direction", six + "x\u202ey\n".encode(), REFUSED
    yield "a name of 10 MB", six + b"x" * 10_000_000, REFUSED
    yield "a name of 1000 characters", six + b"x" * 1000, REFUSED
    yield "numbers alone", b"1\n2\n3\n", REFUSED
    yield "a name of markup", b"red [/red]\n" + six, FINE
    yield "a name of a formula", b"=cmd|' /C calc'!A0\n" + six, EITHER
    good = b"names: [road, car, tree, sky, sign, fence]\n"
    yield "YAML good", good, FINE
    yield (
        "YAML of a program",
        b"names: !!python/object/apply:os.system ['touch executed']\n",
        REFUSED,
    )
    yield "YAML that doubles 40 times", _doubling(), REFUSED
    yield "YAML of arrays 100000 deep", b"names: " + b"[" * 100_000, REFUSED
    yield "YAML of maps 20000 deep", b"names: " + b"{a: " * 20_000, REFUSED
    yield "YAML with a key twice", good + good, REFUSED
    yield "YAML with a value twice", b"names: {0: a, 0: b, 1: c}\n", REFUSED
    yield "YAML of 100000 keys", b"".join(b"k%d: 1\n" % k for k in range(100_000)), REFUSED
    yield "YAML with an integer of 5000 digits", good + b"seed: " + b"9" * 5000, REFUSED
    yield "YAML with a date that is none", good + b"seed: 2024-13-45\n", REFUSED
    yield "YAML with NaN", good + b"val_share: .nan\n", REFUSED
    yield "YAML with infinity", good + b"val_share: .inf\n", REFUSED
    yield "YAML with seed -1", good + b"seed: -1\n", REFUSED
    yield "YAML with a list as a key", b"? [a, b]\n: 1\n" + good, EITHER
    yield "YAML with a map as a key", b"? {a: b}\n: 1\n" + good, REFUSED
    yield "YAML with names of numbers", b"names: [1, 2, 3]\n", REFUSED
    yield "YAML with names of null", b"names: [a, ~, b]\n", REFUSED
    yield "YAML with a name of ESC", b'names: ["a\\x1b[31m", b]\n', REFUSED
    yield "YAML with half a surrogate pair", b'names: ["a\\uD800", b]\n', REFUSED
    yield "YAML with value 255", b"names: {0: a, 255: b}\n", REFUSED
    yield "YAML with value -1", b"names: {0: a, -1: b}\n", REFUSED
    yield "YAML with a colour of 300", good + b"colors: [[300, 0, 0]]\n", REFUSED
    yield "YAML with too few colours", good + b"colors: [[1, 2, 3], [4, 5, 6]]\n", EITHER
    yield "YAML that ignores a class", good + b"ignore: 0\n", REFUSED
    yield "YAML with a merge", b"a: &a {b: 1}\nc:\n  <<: *a\n" + good, REFUSED
    yield "YAML of two documents", good + b"---\n" + good, REFUSED
    yield "YAML with a tab", b"names:\n\t- a\n", REFUSED
    for seed in range(20):
        yield f"YAML with 6 bits flipped, {seed}", flipped(good, seed, 6), EITHER


def _doubling() -> bytes:
    lines = [b"a0: &a0 [x, x]"]
    lines += [b"a%d: &a%d [*a%d, *a%d]" % (k, k, k - 1, k - 1) for k in range(1, 40)]
    return b"\n".join([*lines, b"names: *a39"]) + b"\n"
