"""Files of torch.save that are damaged or hostile. Imports torch where it is called."""

from __future__ import annotations

import builtins
import functools
import io
import os
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MARK = "executed"
"""Name of a file that a payload makes in the folder of the case."""

NUMBER = b"\x8a\x06\x00\x00\x00\x00\x00\x01"
"""LONG1 of 2**40."""


class Payload:
    """Calls a function when it is unpickled without care."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def payloads() -> dict[str, Payload]:
    import numpy as np
    import torch

    return {
        "os.system": Payload(os.system, f"touch {MARK}"),
        "exec": Payload(exec, f"open({MARK!r}, 'w')"),
        "eval": Payload(eval, f"open({MARK!r}, 'w')"),
        "subprocess.call": Payload(subprocess.call, ["touch", MARK]),
        "open": Payload(builtins.open, MARK, "w"),
        "getattr": Payload(getattr, "x", "upper"),
        "functools.partial": Payload(functools.partial, os.system, f"touch {MARK}"),
        "import": Payload(__import__, "antigravity"),
        "shutil.rmtree": Payload(shutil.rmtree, "kept"),
        "torch.load": Payload(torch.load, "/etc/passwd"),
        "torch.hub": Payload(torch.hub.load_state_dict_from_url, "file:///etc/passwd"),
        "numpy.load": Payload(np.load, "/etc/passwd"),
        "numpy.fromfile": Payload(np.fromfile, "/dev/zero"),
    }


PAYLOADS = (
    *("os.system", "exec", "eval", "subprocess.call", "open", "getattr", "functools.partial"),
    *("import", "shutil.rmtree", "torch.load", "torch.hub", "numpy.load", "numpy.fromfile"),
)


def executed(folder: Path, _: object) -> str:
    return "EXECUTED the payload" if (folder / MARK).exists() else ""


def saved(content: Any, legacy: bool = False) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def loaded(path: Path) -> dict[str, Any]:
    import torch

    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def records(data: bytes) -> dict[str, bytes]:
    """Name without its folder → content of each part of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {x.filename.partition("/")[2]: archive.read(x) for x in archive.infolist()}


def archive(parts: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as written:
        for name, content in parts.items():
            written.writestr(f"m/{name}", content)
    return stream.getvalue()


def bomb(parts: Mapping[str, bytes], name: str, size: int) -> bytes:
    """An archive whose part ``name`` unpacks to ``size`` zeros; they are never held."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as written:
        for other, content in parts.items():
            if other != name:
                written.writestr(f"m/{other}", content)
        with written.open(f"m/{name}", "w", force_zip64=True) as part:
            for _ in range(size >> 24):
                part.write(bytes(1 << 24))
    return stream.getvalue()


def twice(parts: Mapping[str, bytes], second: bytes) -> bytes:
    """An archive with two data.pkl."""
    import warnings

    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as written:
        warnings.simplefilter("ignore")
        for name, content in [*parts.items(), ("data.pkl", second)]:
            written.writestr(f"m/{name}", content)
    return stream.getvalue()


def changed_index(data: bytes, part: str, offset: int, value: bytes) -> bytes:
    """``data`` with ``value`` in the entry of ``part`` in the list at the end of the archive."""
    at = data.rfind(b"PK\x01\x02", 0, data.rfind(b"/" + part.encode()))
    return data[: at + offset] + value + data[at + offset + len(value) :]


def many_files(count: int) -> bytes:
    """An archive whose list of files has ``count`` entries, all of the same part."""
    name = b"m/data.pkl"
    local = b"PK\x03\x04" + struct.pack("<5H3L2H", 20, 0, 0, 0, 0, 0, 1, 1, len(name), 0) + name
    entry = struct.pack("<6H3L5H2L", 20, 20, 0, 0, 0, 0, 0, 1, 1, len(name), 0, 0, 0, 0, 0, 0)
    entries = (b"PK\x01\x02" + entry + name) * count
    size, start = len(entries), len(local) + 1
    end = b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 65535, 65535, size, start, 0)
    return local + b"." + entries + end


def laughs(levels: int) -> tuple[Any, ...]:
    """A tuple of 2**levels texts, each level one tuple that is referred to twice."""
    value: tuple[Any, ...] = ("ha",)
    for _ in range(levels):
        value = (value, value)
    return value


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def text(value: str) -> bytes:
    """BINUNICODE."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def hex_chain(times: int) -> bytes:
    """A pickle that encodes a text to hexadecimal digits again and again: it doubles each time."""
    start = b"c_codecs\nencode\n" + text("a" * 1000) + text("latin1") + b"\x86R"
    again = b"q\x01c_codecs\nencode\nh\x01" + text("hex") + b"\x86R"
    return b"\x80\x02}" + text("model") + start + again * times + b"s."


PICKLES: dict[str, bytes] = {
    "no pickle": b"hello",
    "nothing": b"",
    "no end": b"\x80\x02}",
    "an empty stack": b"\x80\x02.",
    "tuples 200000 deep": b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b".",
    "lists 200000 deep": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a dictionary in itself": b"\x80\x02}q\x00" + text("a") + b"h\x00s.",
    "place 2**31 of the memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "an empty place of the memo": b"\x80\x02h\x05.",
    "a text of 4 GB": b"\x80\x02X\xff\xff\xff\xffabc",
    "a number of 2 GB": b"\x80\x04\x8b\xff\xff\xff\x7f" + b"1" * 100,
    "bytes of 2**60": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60),
    "an array of 2**40 bytes": b"\x80\x02cbuiltins\nbytearray\n" + NUMBER + b"\x85R.",
    "a tensor of 2**40 numbers": b"\x80\x02ctorch\nTensor\n" + NUMBER + b"\x85R.",
    "encodings that double 35 times": hex_chain(35),
    "protocol 0": b"(dp0\n.",
    "protocol 255": b"\x80\xff}.",
    "a module that is not there": b"\x80\x02cnowhere\nthing\n.",
    "os.system by opcode": b"\x80\x02cos\nsystem\n" + text(f"touch {MARK}") + b"\x85R.",
    "torch.hub by opcode": b"\x80\x02ctorch.hub\nload\n" + text("x") + b"\x85R.",
    "a set of sets": b"\x80\x02" + b"\x8f" * 10 + b".",
    "two million steps": b"\x80\x02" + b"N" * 2_000_000 + b"}.",
    "a million lists": b"\x80\x02(" + b"]" * 1_100_000 + b"t.",
    "a storage of another name": b"\x80\x02(" + text("file") + text("/etc/passwd") + b"tQ.",
    "a storage by number": b"\x80\x02K\x01Q.",
}
"""What is wrong with data.pkl, and data.pkl."""
