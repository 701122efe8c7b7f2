"""Files of ``torch.save``, read as data: nothing in them runs, and reading them is bounded.

``torch.load(weights_only=True)`` calls only what rebuilds tensors. A hostile file still makes it
work for hours or take all memory, and it believes the sizes that the file states. So before it
reads a file, the index of the archive is checked, and the pickle is followed without building
anything of it (``_Survey``).
"""

from __future__ import annotations

import io
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from dabnet.errors import ArtifactError
from dabnet.file_kind import CHECKPOINT, refuse_other
from dabnet.files import existing_file
from dabnet.public_checkpoint import form_of

MOST_BYTES = 2 << 30
"""Of a file."""
MOST_PICKLE_BYTES = 64 << 20
"""Of the part that is not tensors."""
MOST_INDEX_BYTES = 16 << 20
"""Of the list of the files in an archive, some 100,000 tensors."""
MOST_STEPS = 1_000_000
"""Of a pickle: a network of 500 tensors and its optimiser take some 100,000."""
MOST_VALUES = 1_000_000
"""In a pickle, one that is referred to twice counted twice."""
MOST_DEPTH = 100
"""Of values in values."""

_NUMPY: list[Any] = [
    np.dtype,
    np.ndarray,
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
    *(
        (value.__reduce__()[0], f"numpy.{core}.multiarray.{name}")  # "core" of numpy 1
        for value, name in ((np.float64(), "scalar"), (np.zeros(1), "_reconstruct"))
        for core in ("core", "_core")
    ),
]
"""What a pickled numpy value consists of, such as the mIoU that a trainer keeps: data alone."""

_ITEM_BYTES = {
    **dict.fromkeys(("ComplexDouble",), 16),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Char", "Byte", "Bool", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"), 1),
    "Untyped": 1,
}
"""Kind of storage → bytes of an element."""

_ENCODE = "_codecs.encode"
_MAKERS = {
    *("collections.OrderedDict", "collections.Counter"),
    *("torch.Tensor", "torch.Size", "torch.device", "torch.nn.parameter.Parameter"),
    *(f"torch._utils._rebuild_{x}" for x in ("tensor", "tensor_v2", "tensor_v3", "qtensor")),
    *(f"torch._utils._rebuild_parameter{x}" for x in ("", "_with_state")),
    "torch._utils._rebuild_meta_tensor_no_storage",
    *("torch._tensor._rebuild_from_type_v2", "torch.serialization._get_layout"),
    *("builtins.set", "builtins.complex", _ENCODE),
    *(
        f"numpy.{core}.multiarray.{x}"
        for core in ("core", "_core")
        for x in ("scalar", "_reconstruct")
    ),
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.dtypes.{name}" for name in vars(np.dtypes)),
}
"""What may be called or named, of what ``torch.load`` and ``_NUMPY`` allow: nothing that copies
tensors or takes memory for a number."""


class _Hostile(Exception):
    """A file that asks for more work, or for other work, than tensors do."""


class _Damaged(Exception):
    """An archive whose parts are not those that were written."""


class _Made(list[Any]):
    """A value that a pickle would build, by its parts. It is hashed and compared as itself."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


@dataclass(frozen=True)
class _Name:
    """What a pickle names of a module, such as ``torch.FloatStorage``."""

    text: str


@dataclass
class _Survey:
    """Follows pickles of ``torch.save`` and builds nothing.

    Attributes:
        storages: bytes that the pickle says a storage has, by the key of the storage.
    """

    storages: dict[str, int] = field(default_factory=dict)
    _steps_left: int = MOST_STEPS
    _values_left: int = MOST_VALUES

    def follow(self, stream: io.BytesIO) -> Any:
        """Follow one pickle to its end and return its value.

        Raises:
            _Hostile: it is not one of tensors, texts and numbers, or is too large.
            Exception: it is no pickle of ``torch.save``.
        """
        stack: list[Any] = []
        below: list[list[Any]] = []
        memo: dict[int, Any] = {}
        argument: Any
        for code, argument, _ in pickletools.genops(stream):
            self._steps_left -= 1
            if self._steps_left < 0:
                raise _Hostile(f"its pickle has more than {MOST_STEPS} steps")
            name = code.name
            if name == "MARK":
                below.append(stack)
                stack = []
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                stack.append(argument)
            elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_SET"):
                stack.append(_Made())
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "GLOBAL":
                stack.append(self._named(argument))
            elif name == "BINPERSID":
                stack.append(self._storage(stack.pop()))
            elif name == "TUPLE":
                stack, items = below.pop(), stack
                stack.append(_Made(items))
            elif name in _TUPLES:
                size = _TUPLES[name]
                stack[-size:] = [_Made(stack[-size:])]
            elif name in ("APPEND", "SETITEM"):
                size = 1 if name == "APPEND" else 2
                items = stack[-size:]
                del stack[-size:]
                self._extend(stack[-1], items, keys=name == "SETITEM")
            elif name in ("APPENDS", "SETITEMS"):
                stack, items = below.pop(), stack
                self._extend(stack[-1], items, keys=name == "SETITEMS")
            elif name in ("REDUCE", "NEWOBJ", "BUILD"):
                given = stack.pop()
                stack[-1] = self._called(name, stack[-1], given)
            elif name == "STOP":
                self._count(stack[-1])
                return stack[-1]
            elif name != "PROTO":
                raise ValueError(f"torch.save writes no {name}")
        raise EOFError

    def _named(self, argument: str) -> _Name:
        text = argument.replace(" ", ".", 1).replace("__builtin__.", "builtins.", 1)
        module, _, last = text.rpartition(".")
        kind = module == "torch" and (
            last.removesuffix("Storage") in _ITEM_BYTES
            or isinstance(vars(torch).get(last), (torch.dtype, torch.qscheme))
        )
        if not kind and text not in _MAKERS and text != "torch.storage.UntypedStorage":
            raise _Hostile(text)
        return _Name(text)

    def _storage(self, identity: Any) -> _Made:
        """Note how many bytes a storage is said to have."""
        _, kind, key, _, count, *_ = identity
        item = _ITEM_BYTES[kind.text.rpartition(".")[2].removesuffix("Storage")]
        if type(count) is not int or count < 0 or not isinstance(key, str):
            raise ValueError(f"a storage of {count} elements")
        self.storages[key] = max(count * item, self.storages.get(key, 0))
        return _Made()

    def _extend(self, value: Any, items: list[Any], keys: bool) -> None:
        for key in items[::2] if keys else ():
            self._count(key)  # hashing walks through tuples
        if not isinstance(value, _Made):
            raise TypeError("no list or dictionary")
        value.extend(items)

    def _called(self, code: str, called: Any, given: Any) -> _Made:
        """What a call, or a change of state, would make; what it reads is counted."""
        self._count(given)
        if code == "BUILD":
            called.append(given)
            return called  # type: ignore[no-any-return]
        if not isinstance(called, _Name):
            raise TypeError(f"a call of a {type(called).__name__}")
        if called.text == _ENCODE and list(given[1:]) != ["latin1"]:
            raise _Hostile(f"{_ENCODE} to another form than latin1")
        return _Made([given])

    def _count(self, value: Any, depth: int = 0) -> None:
        text = len(value) // 100 if isinstance(value, (str, bytes)) else 0
        self._values_left -= 1 + text
        if self._values_left < 0:
            raise _Hostile(f"it holds more than {MOST_VALUES} values")
        if isinstance(value, _Made):
            if depth > MOST_DEPTH:
                raise _Hostile(f"it holds values more than {MOST_DEPTH} deep in one another")
            for item in value:
                self._count(item, depth + 1)
        elif value == _Name(_ENCODE):
            raise _Hostile(f"{_ENCODE} as a value")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINSTRING"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_torch_file(path: str | Path, what: str = "a checkpoint (a .pth file)") -> dict[Any, Any]:
    """Return the dictionary that ``torch.save`` wrote, tensors on the CPU.

    It holds tensors, texts, numbers and numpy values, at most ``MOST_VALUES`` of them in
    dictionaries, lists and tuples at most ``MOST_DEPTH`` deep. No tensor has more elements than the
    file has room for.

    Args:
        path: the file.
        what: its role, for errors.

    Raises:
        ArtifactError: it is damaged, of another kind, or holds something else.
        InputError: there is none.
    """
    file = existing_file(path, what)
    if file.stat().st_size > MOST_BYTES:
        raise ArtifactError(
            f"{str(file)!r} has {file.stat().st_size} bytes",
            f"at most {MOST_BYTES}",
            "save the state dict of the network alone with torch.save",
        )
    try:
        _survey(file)
        with warnings.catch_warnings(), _allowed():
            # Torch warns of pickle protocols and foreign archives: the error below says it all.
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except _Damaged as error:
        raise ArtifactError(
            f"{str(file)!r} is damaged ({error})",
            "the file as it was written",
            "copy or train it again",
        ) from error
    except _Hostile as error:
        raise ArtifactError(
            f"{str(file)!r} is not a checkpoint that loads safely (it holds {error})",
            "tensors, strings and numbers only",
            "if you trust it, keep its state dict alone: x = torch.load(FILE, weights_only=False);"
            " torch.save(x.state_dict() if hasattr(x, 'state_dict') else x['state_dict'], OUT)",
        ) from error
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        _refuse(file, what, error)
    if not isinstance(content, dict):
        raise ArtifactError(
            f"{str(file)!r} holds a value of type {type(content).__name__}",
            "a state dict or a dictionary with the key 'model'",
        )
    for tensor in _tensors(content):
        _check_room(tensor, file)
    return content


def _survey(file: Path) -> None:
    """Raise unless a file is what torch.save writes, and of no other sizes than it states."""
    survey, size = _Survey(), file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":  # as torch decides
            stream.seek(0)
            head = io.BytesIO(stream.read(MOST_PICKLE_BYTES))
            if survey.follow(head) != torch.serialization.MAGIC_NUMBER:
                raise ValueError("another pickle than torch.save's")
            for _ in ("protocol", "sizes of numbers", "content", "keys of storages"):
                survey.follow(head)
            if sum(survey.storages.values()) > size:
                raise _Hostile("tensors that are larger than the file")
            return
    records = _records(file)
    root = next(iter(records), "").partition("/")[0]
    with zipfile.ZipFile(file) as archive:
        if records[f"{root}/data.pkl"] > MOST_PICKLE_BYTES:
            raise _Hostile(f"a pickle of {records[f'{root}/data.pkl']} bytes")
        survey.follow(io.BytesIO(archive.read(f"{root}/data.pkl")))
        for key, stated in survey.storages.items():
            if stated > (there := records.get(f"{root}/data/{key}", 0)):
                raise _Hostile(f"a tensor of {stated} bytes in {there} bytes")
        if damaged := archive.testzip():  # torch does not verify the check sums
            raise _Damaged(f"the check sum of {damaged}")


def _records(file: Path) -> dict[str, int]:
    """Name → bytes of each part of an archive, none of which is compressed, in its order."""
    if _index_bytes(file) > MOST_INDEX_BYTES:
        raise _Hostile("an archive of very many files")
    if form_of(file)[0]:
        raise ValueError("another archive than torch.save's")
    with zipfile.ZipFile(file) as archive:
        found = archive.infolist()
    records = {record.filename: record.file_size for record in found}
    if any(record.compress_type != zipfile.ZIP_STORED for record in found):
        raise _Hostile("an archive that is compressed, as torch.save writes none")
    if len(records) < len(found) or any(x.compress_size != x.file_size for x in found):
        raise _Damaged("the index of its archive")
    if sum(records.values()) > file.stat().st_size:
        raise _Damaged("sizes in the index of its archive")
    return records


def _index_bytes(file: Path) -> int:
    """Bytes of an archive's list of files (PKWARE APPNOTE 6.3.10, sections 4.3.14 and 4.3.16)."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - (1 << 16) - 128))
        tail = stream.read()
    if (end := tail.rfind(b"PK\x05\x06")) < 0:
        raise ValueError("no end of an archive")
    (size,) = struct.unpack_from("<I", tail, end + 12)
    if size == 0xFFFFFFFF and (end := tail.rfind(b"PK\x06\x06")) >= 0:
        (size,) = struct.unpack_from("<Q", tail, end + 40)
    return int(size)


def _allowed() -> AbstractContextManager[None]:
    """Let ``torch.load(weights_only=True)`` read numpy values (names of another module: 2.6)."""
    known = torch.__version__ >= "2.6"
    return torch.serialization.safe_globals(_NUMPY) if known else nullcontext()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _check_room(tensor: Tensor, file: Path) -> None:
    """Raise for a tensor whose elements are the same few in storage, up to 2^60 of them."""
    plain = tensor.layout is torch.strided and not tensor.is_meta
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        shape = "x".join(map(str, tensor.shape))
        raise ArtifactError(
            f"{str(file)!r} holds a tensor of {shape} without its elements",
            "tensors in full",
            "save tensor.clone() on the CPU",
        )


def _refuse(file: Path, what: str, error: Exception) -> NoReturn:
    """Raise for a file that is no checkpoint, and say what it is if that can be told."""
    refuse_other(file, CHECKPOINT, expected=what)
    form, fix = form_of(file)
    if form:
        raise ArtifactError(
            f"{str(file)!r} is {form}", "a state dict of torch.save", fix
        ) from error
    raise ArtifactError(
        f"{str(file)!r} cannot be read as a checkpoint (truncated or another format)",
        "a file written by torch.save",
        "download or train it again",
    ) from error
