"""Images and masks of a data set, read by ``dabnet-data check`` and timed by ``dabnet-bench``."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.case import EITHER, FINE, REFUSED, Case, Expected
from tests.faults.damage import NOBODY, cut, flipped
from tests.faults.originals import Originals
from tests.faults.verdict import Result

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
MASK = (np.arange(48 * 64).reshape(48, 64) // 600).astype(np.uint8)
DAMAGED = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
FOREIGN = ("GIF", "TGA", "PCX", "ICO", "ICNS", "DDS", "SGI", "IM", "JPEG2000", "AVIF", "PDF", "QOI")
SCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
SPIDER = struct.pack(">256f", 1, 8, 0, 0, 1, *[0] * 6, 8, 32, *[0] * 8, 1024, 32, *[0] * 233)


def encoded(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, colour: int = 2, bits: int = 8, rows: bytes = b"", *more: bytes):
    """A PNG of this header whose compressed rows may be anything."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return SIGNATURE + head + b"".join(more) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    blocks = [packer.compress(bytes(1 << 24)) for _ in range(size >> 24)]
    return b"".join([*blocks, packer.compress(bytes(size & 0xFFFFFF)), packer.flush()])


def folder_of_two(folder: Path) -> Path:
    """Write a data set of two good pairs; return its folder."""
    root = folder / "d"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    (root / "classes.txt").write_text("road\ncar\ntree\nsky\nsign\nfence\n")
    for name in ("a", "b"):
        Image.fromarray(PIXELS).save(root / "images" / f"{name}.png")
        Image.fromarray(MASK).save(root / "masks" / f"{name}.png")
    return root


CHECK = ("dabnet-data", "check", "d", "--dataset", "folder", "--sheet", "sheet.png")


def _with(part: str, name: str, make: Callable[[], bytes]) -> Callable[[Path, Originals], list]:
    def lay(folder: Path, _: Originals) -> list[str]:
        root = folder_of_two(folder)
        (root / part / "a.png").unlink()
        (root / part / name).write_bytes(make())
        return [*CHECK]

    return lay


def _images() -> Iterator[tuple[str, Callable[[], bytes], Expected]]:
    good = encoded(Image.fromarray(PIXELS), "PNG")
    yield "header 100000x100000", lambda: png(100_000, 100_000), REFUSED
    yield "header 2**31-1 x 2**31-1", lambda: png(2**31 - 1, 2**31 - 1), REFUSED
    yield "header 2**31-1 x 1", lambda: png(2**31 - 1, 1), REFUSED
    yield "header 13000x13000 without data", lambda: png(13_000, 13_000), REFUSED
    yield "13000x13000 of zeros", lambda: png(13_000, 13_000, rows=zeros(13_000 * 39_001)), REFUSED
    yield "100000000x1", lambda: png(100_000_000, 1, 0, 8, zeros(100_000_001)), REFUSED
    yield "1x100000000", lambda: png(1, 100_000_000, 0, 8, zeros(200_000_000)), REFUSED
    yield "0x0", lambda: png(0, 0), REFUSED
    yield "7 bits", lambda: png(8, 8, 2, 7, zeros(400)), REFUSED
    yield "palette without colours", lambda: png(64, 48, 3, 8, zeros(48 * 65)), EITHER
    yield "1 GB of rows", lambda: png(64, 48, rows=zeros(1 << 30)), EITHER
    for kind, start in ((b"zTXt", b"k\0\0"), (b"iCCP", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0")):
        bomb = start + zeros(1 << 28)
        more = chunk(kind, bomb)
        rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS))
        yield f"256 MB of {kind.decode()}", lambda m=more, r=rows: png(64, 48, 2, 8, r, m), EITHER
    for name, content in {
        "text": b"hello",
        "HTML": b"<html>",
        "nothing": b"",
        "NUL bytes": bytes(10_000),
        "a signature only": SIGNATURE,
        "PostScript": SCRIPT,
        "Spider": SPIDER,
        "TIFF of a loop": b"II*\0\x08\0\0\0\0\0\x08\0\0\0" * 4,
        "HEIC": b"\0\0\0 ftypheic\0\0\0\0mif1heic" + bytes(100),
        "BMP of 2**31 rows": b"BM" + struct.pack("<IHHIIiiHHIIiiII", *_bmp(2**31 - 1)),
        "PPM of 10**9 columns": b"P6 1000000000 1000000000 255\n",
        "PGM of 5000 digits": b"P5 " + b"9" * 5000 + b" 1 255\n",
    }.items():
        yield name, lambda c=content: c, REFUSED
    for at in (9, 20, 30, 50, 0.3, 0.6, 0.9):
        yield f"cut at {at}", lambda a=at: cut(good, a), REFUSED
    for seed in range(12):
        yield f"8 bits flipped, {seed}", lambda s=seed: flipped(good, s, 8), EITHER


def _bmp(rows: int) -> tuple[int, ...]:
    return (100, 0, 0, 54, 40, 64, rows, 1, 24, 0, 0, 0, 0, 0, 0)


def cases() -> Iterator[Case]:
    for name, make, expected in _images():
        yield Case("image", name, _with("images", "a.png", make), expected, ("sheet.png",))
    for form in DAMAGED:
        for seed in range(12):

            def broken(form=form, seed=seed) -> bytes:
                data = encoded(Image.fromarray(PIXELS), form)
                return cut(flipped(data, seed, 1 + 3 * seed), 1 - 0.05 * (seed % 4))

            lay = _with("images", "a.png", broken)
            yield Case("image", f"damaged {form}, {seed}", lay, EITHER, ("sheet.png",))
    for form in FOREIGN:

        def foreign(form=form) -> bytes:
            try:
                return encoded(Image.fromarray(PIXELS[:32, :32]), form)
            except (OSError, KeyError):  # Pillow writes none here
                return b"none"

        yield Case("image", f"a {form}", _with("images", "a.png", foreign), changes=("sheet.png",))
    yield from _masks()
    yield from _names()
    yield from _files()
    yield _program()


def _masks() -> Iterator[Case]:
    other = {
        "class 200": np.full_like(MASK, 200),
        "all ignored": np.full_like(MASK, 255),
        "of another size": MASK[:-1],
        "of one pixel": MASK[:1, :1],
        "float": MASK.astype(np.float32),
        "32 bits": MASK.astype(np.int32) * 70_000,
        "colours of no class": PIXELS,
    }
    for name, pixels in other.items():
        form = "TIFF" if pixels.dtype in (np.float32, np.int32) else "PNG"
        make = lambda p=pixels, f=form: encoded(Image.fromarray(p), f)  # noqa: E731
        yield Case("mask", name, _with("masks", "a.png", make), changes=("sheet.png",))
    good = encoded(Image.fromarray(MASK), "PNG")
    rejected = {"text": b"hello", "empty": b"", "header 100000x100000": png(100_000, 100_000, 0)}
    for name, content in rejected.items():
        make = lambda c=content: c  # noqa: E731
        yield Case("mask", name, _with("masks", "a.png", make), changes=("sheet.png",))
    for seed in range(12):
        make = lambda s=seed: flipped(good, s, 8)  # noqa: E731
        lay = _with("masks", "a.png", make)
        yield Case("mask", f"8 bits flipped, {seed}", lay, EITHER, ("sheet.png",))


def _names() -> Iterator[Case]:
    """Names that terminals, markup and shells read in another way."""
    names = {
        "with a space": "a b",
        "in Japanese": "日本",
        "of two lines": "new\nline",
        "with a dash": "-rf",
        "with ESC": "\x1b[31mred",
        "that turns direction": "\u202eabc",
        "with markup": "[red]",
        "of 200 characters": "x" * 200,
        "with a script": "<script>alert(1)<%2fscript>",
        "with a formula": "=1+1",
        "not UTF-8": os.fsdecode(b"\xff\xfe"),
        "with a quote": "a'b\"c",
    }
    for name, stem in names.items():
        for fault in (False, True):

            def lay(folder: Path, _: Originals, stem=stem, fault=fault) -> list[str]:
                root = folder_of_two(folder)
                (root / "images" / "a.png").rename(root / "images" / f"{stem}.png")
                (root / "masks" / "a.png").rename(root / "masks" / f"{stem}.png")
                if fault:
                    (root / "images" / f"{stem}.png").write_bytes(b"none")
                return [*CHECK]

            told = "a damaged image" if fault else "a good image"
            expected = REFUSED if fault else FINE
            yield Case("image name", f"{told} {name}", lay, expected, ("sheet.png",))


def _files() -> Iterator[Case]:
    """What is no regular file is passed over, and its mask has no image."""
    kinds: dict[str, Callable[[Path], object]] = {
        "a FIFO": os.mkfifo,
        "a folder": Path.mkdir,
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "a link to itself": lambda path: path.symlink_to(path.name),
    }
    for name, make in kinds.items():
        for part in ("images", "masks"):

            def lay(folder: Path, _: Originals, make=make, part=part) -> list[str]:
                path = folder_of_two(folder) / part / "a.png"
                path.unlink()
                make(path)
                return [*CHECK]

            yield Case("image", f"{part} has {name}", lay, REFUSED, ("sheet.png",))

    def locked(folder: Path, _: Originals) -> list[str]:
        path = folder_of_two(folder) / "images" / "a.png"
        path.chmod(0)
        folder.chmod(0o777)
        for above in list(folder.parents)[:3]:
            above.chmod(0o755)
        return [*CHECK]

    yield Case("image", "unreadable", locked, REFUSED, ("sheet.png",), user=NOBODY)

    def loop(folder: Path, _: Originals) -> list[str]:
        root = folder_of_two(folder)
        (root / "images" / "again").symlink_to(root / "images")
        return [*CHECK]

    yield Case("image", "a folder within itself", loop, EITHER, ("sheet.png",))


def _program() -> Case:
    """A PostScript file whose interpreter, found by PATH, would write a file."""

    def lay(folder: Path, _: Originals) -> list[str]:
        root = folder_of_two(folder)
        (root / "images" / "a.png").write_bytes(SCRIPT)
        (folder / "bin").mkdir()
        for program in ("gs", "gswin64c"):
            path = folder / "bin" / program
            path.write_text("#!/bin/sh\n/bin/echo ran > executed\n")
            path.chmod(0o755)
        return [*CHECK]

    def check(folder: Path, _: Result) -> str:
        return "EXECUTED the program gs" if (folder / "executed").exists() else ""

    changes = ("sheet.png", "executed")
    return Case(
        *("image", "a program named as an image", lay),
        changes=changes,
        check=check,
        environment={"PATH": "bin:/usr/bin:/bin"},
    )
