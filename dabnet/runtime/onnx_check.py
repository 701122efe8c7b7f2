"""A bounded look at an ONNX file, before any library parses it or builds of it.

The file is walked in protobuf's wire format, for which neither onnx nor onnxruntime is needed. A
file that would make a parser hang, crash or read another file is refused here.

https://protobuf.dev/programming-guides/encoding/ and onnx.proto of https://github.com/onnx/onnx,
whose numbers of fields are those below.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dabnet.errors import ArtifactError
from dabnet.files import existing_file
from dabnet.runtime.manifest import Manifest, carried_manifest

MOST_FIELDS = 5_000_000
"""Fields of protobuf that are looked at."""
MOST_BYTES = 2**31 - 1
"""Of a file: protobuf's own limit."""
MOST_NODES = 100_000
"""Nodes that one call runs: functions count as often as they are called, loops by their rounds."""
MOST_NESTED = 30
"""Graphs within nodes, and functions within functions."""
LONGEST_NAME = 1000  # bytes
MOST_ELEMENTS = 2**31
"""Of an input or an output of the graph."""

Data = memoryview
Scope = list[set[bytes]]
"""Names that are known where a node stands: those of its graph last."""

_COMPUTATION = (7, 8, 25)  # graph, opset_import, functions
_DTYPES = {1: "f4", 2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2"} | {
    **{11: "f8", 12: "u4", 13: "u8", 14: "c8", 15: "c16", 16: "u2"},
}
"""``TensorProto.data_type`` → numpy's type of that size; types of less than a byte have none."""
_EXTERNAL = 1  # ``TensorProto.data_location``


class _Fault(Exception):
    """What is wrong with the file, in words, and what to do about it."""

    def __init__(self, text: str, fix: str = "export it again") -> None:
        super().__init__(text)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What was found in a file that may be parsed.

    Attributes:
        properties: its ``metadata_props``.
        graph_sha256: of its graph, weights, functions and opsets; metadata does not count.
    """

    path: Path
    properties: Mapping[str, str]
    graph_sha256: str

    def manifest(self) -> Manifest:
        """The manifest that it carries.

        Raises:
            ArtifactError: it is damaged. ``NoManifest``: there is none, or the graph was changed
                since it was written.
        """
        return carried_manifest(self.properties, repr(str(self.path)), self.graph_sha256)


def check_onnx_file(path: str | Path) -> OnnxFile:
    """Look at an ONNX file without parsing it.

    Refused are a file that is no ONNX, a node that reads what no node before it gives (so cycles
    too), functions that call themselves, more than ``MOST_NODES`` nodes to run, a loop whose number
    of rounds is not in the file, tensors that hold another number of values than their dimensions
    say, weights that are NaN or lie outside of the file's folder, and names beyond
    ``LONGEST_NAME``.

    Raises:
        InputError: there is no such file.
        ArtifactError: it is refused.
    """
    path = existing_file(path, "an ONNX file")
    source = repr(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        return _Walk(path).model(memoryview(content))
    except _Fault as fault:
        raise ArtifactError(
            f"{source} {fault}", "a sound and bounded ONNX file", fault.fix
        ) from fault
    except (OSError, ValueError) as error:
        given = f"{source} cannot be read as ONNX ({error})"
        raise ArtifactError(given, "a file written by dabnet-export", "export it again") from error


def graph_sha256_of(content: bytes | Data) -> str:
    """SHA-256 of what a serialised ``ModelProto`` computes, as ``OnnxFile`` has it."""
    digest = hashlib.sha256()
    for number, value in _Walk(Path()).fields(memoryview(content)):
        if number in _COMPUTATION:
            digest.update(f"{number} {len(value)} ".encode())
            digest.update(value)
    return digest.hexdigest()


@dataclass(slots=True)
class _Function:
    nodes: list[Data] = field(default_factory=list)
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    work: int | None = None  # nodes that one call runs; None before it is known, -1 meanwhile


class _Walk:
    """One file. Each method takes the bytes of one message of onnx.proto."""

    def __init__(self, path: Path) -> None:
        self._path, self._folder = path, path.parent.resolve()
        self._fields = 0
        self._functions: dict[tuple[bytes, bytes, bytes], _Function] = {}

    def fields(self, data: Data) -> Iterator[tuple[int, Any]]:
        """Yield (number, value): an int, or the bytes of a text, a message or packed numbers."""
        at, end = 0, len(data)
        while at < end:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise _Fault(f"has more than {MOST_FIELDS:,} fields")
            tag, at = _varint(data, at)
            number, kind = tag >> 3, tag & 7
            if kind == 0:
                value, at = _varint(data, at)
                yield number, value
                continue
            if kind == 2:
                size, at = _varint(data, at)
            else:
                size = {1: 8, 5: 4}.get(kind, end)
            if not number or size > end - at:
                raise ValueError("truncated, or another format")
            yield number, data[at : at + size]
            at += size

    def model(self, data: Data) -> OnnxFile:
        if len(data) > MOST_BYTES:
            raise _Fault("has more than 2 GB, which protobuf does not allow")
        graphs: list[Data] = []
        properties: dict[str, str] = {}
        for number, value in self.fields(data):
            if number == 7:
                graphs.append(_message(value))
            elif number == 25:
                self._function(_message(value))
            elif number == 14:
                entry = dict(self.fields(_message(value)))
                key, text = (_bytes(entry.get(part, b"")).decode() for part in (1, 2))
                properties[key] = text
        if len(graphs) != 1:
            raise _Fault("holds no graph" if not graphs else "holds two graphs")
        for function in self._functions.values():
            self._work_of(function, 1)
        if not self._graph(graphs[0], [], {}, 0):
            raise _Fault("holds no graph")
        return OnnxFile(self._path, properties, graph_sha256_of(data))

    def _function(self, data: Data) -> None:
        made, key = _Function(), {1: b"", 10: b"", 13: b""}
        for number, value in self.fields(data):
            if number in key:
                key[number] = self._name(value)
            elif number in (4, 5):
                (made.inputs if number == 4 else made.outputs).append(self._name(value))
            elif number == 7:
                made.nodes.append(_message(value))
        name = (_domain(key[10]), key[1], key[13])
        if name in self._functions:
            raise _Fault(f"has two functions {_shown(key[1])}")
        self._functions[name] = made

    def _work_of(self, function: _Function, depth: int) -> int:
        """Nodes that one call of a function runs."""
        if function.work == -1:
            raise _Fault("has a function that calls itself")
        if function.work is None:
            _refuse_deep(depth)
            function.work = -1
            scope = [set(function.inputs)]
            function.work = self._nodes(function.nodes, scope, {}, depth)
            self._require(function.outputs, scope, "an output of a function")
        return function.work

    def _graph(self, data: Data, outer: Scope, constants: dict[bytes, int], depth: int) -> int:
        """Check a graph; return how many nodes one run of it runs."""
        _refuse_deep(depth)
        nodes: list[Data] = []
        known: set[bytes] = set()
        weights: set[bytes] = set()
        outputs: list[bytes] = []
        constants = dict(constants)
        for number, value in self.fields(data):
            if number == 1:
                nodes.append(_message(value))
            elif number == 5:
                name = self._tensor(_message(value), constants, weights=True)
                if name in weights:
                    raise _Fault(f"has two tensors {_shown(name)}")
                weights.add(name)
            elif number == 15:
                weights.add(self._sparse(_message(value)))
            elif number in (11, 12):
                name = self._tensor_info(_message(value), bounded=not outer)
                (known.add if number == 11 else outputs.append)(name)
        scope = [*outer, known | weights]
        work = self._nodes(nodes, scope, constants, depth)
        self._require(outputs, scope, "an output")
        return work

    def _nodes(
        self, nodes: Sequence[Data], scope: Scope, constants: dict[bytes, int], depth: int
    ) -> int:
        work = 0
        for data in nodes:
            work += self._node(data, scope, constants, depth)
            if work > MOST_NODES:
                raise _Fault(f"runs more than {MOST_NODES:,} nodes for one call")
        return work

    def _node(self, data: Data, scope: Scope, constants: dict[bytes, int], depth: int) -> int:
        """Check a node, and add its outputs to the scope; return how many nodes it runs."""
        inputs: list[bytes] = []
        outputs: list[bytes] = []
        texts = {3: b"", 4: b"", 7: b"", 8: b""}  # name, op_type, domain, overload
        attributes: list[Data] = []
        for number, value in self.fields(data):
            if number in (1, 2):
                (inputs if number == 1 else outputs).append(self._name(value))
            elif number in texts:
                texts[number] = self._name(value)
            elif number == 5:
                attributes.append(_message(value))
        what = f"the node {_shown(texts[3] or texts[4])}"
        self._require(filter(None, inputs), scope, f"an input of {what}")
        given = [name for name in outputs if name]
        if not given:
            raise _Fault(f"has {what} without an output")
        bodies = 0
        for attribute in attributes:
            bodies += self._attribute(attribute, given[0], scope, constants, depth)
        for name in given:
            if name in scope[-1]:
                raise _Fault(f"computes {_shown(name)} twice")
            scope[-1].add(name)
        function = self._functions.get((_domain(texts[7]), texts[4], texts[8]))
        if function is not None:
            return bodies + self._work_of(function, depth + 1)
        return 1 + bodies * self._rounds(what, texts[4], inputs, constants, bodies)

    def _rounds(
        self, what: str, kind: bytes, inputs: Sequence[bytes], known: dict[bytes, int], bodies: int
    ) -> int:
        """How often a node runs the graphs within it."""
        if not bodies or kind == b"If":
            return 1
        rounds = known.get(inputs[0]) if kind == b"Loop" and inputs else None
        if rounds is None:
            raise _Fault(
                f"has {what} ({_text(kind)}), whose number of rounds is not in the file",
                "export it with a fixed number, or unroll it",
            )
        return max(0, rounds)

    def _attribute(
        self, data: Data, of: bytes, scope: Scope, constants: dict[bytes, int], depth: int
    ) -> int:
        """Check an attribute; return how many nodes its graphs hold."""
        work, graphs, name = 0, [], b""
        for number, value in self.fields(data):
            if number == 1:
                name = self._name(value)
            elif number in (5, 10):
                values: dict[bytes, int] = {}
                own = self._tensor(_message(value), values)
                if name == b"value" and own in values:  # of a Constant
                    constants[of] = values[own]
            elif number == 3 and name == b"value_int":
                constants[of] = _signed(value)
            elif number in (22, 23):
                self._sparse(_message(value))
            elif number in (6, 11):
                graphs.append(_message(value))
        for graph in graphs:
            work += self._graph(graph, scope, constants, depth + 1)
        return work

    def _require(self, names: Any, scope: Scope, what: str) -> None:
        for name in names:
            if not any(name in known for known in scope):
                raise _Fault(f"gives {_shown(name)} to {what}, but nothing before it computes that")

    def _sparse(self, data: Data) -> bytes:
        name = b""
        for number, value in self.fields(data):
            if number in (1, 2):
                found = self._tensor(_message(value), {})
                name = found if number == 1 else name
        return name

    def _tensor(self, data: Data, constants: dict[bytes, int], weights: bool = False) -> bytes:
        """Check a tensor and return its name; a single whole number of it becomes a constant."""
        name, kind, location = b"", 0, 0
        sides: list[int] = []
        raw: Data | None = None
        packed: dict[int, Data] = {}
        external: dict[str, str] = {}
        for number, value in self.fields(data):
            if number == 1:
                sides += _integers(value)
            elif number == 2:
                kind = int(value)
            elif number == 8:
                name = self._name(value)
            elif number == 9:
                raw = _message(value)
            elif number == 14:
                location = int(value)
            elif number == 13:
                entry = dict(self.fields(_message(value)))
                key, text = (_bytes(entry.get(part, b"")).decode() for part in (1, 2))
                external[key] = text
            elif number in (4, 7, 10) and not isinstance(value, int):
                packed[number] = value
        what = f"the tensor {_shown(name)}"
        size = math.prod(sides)
        if any(side < 0 for side in sides):
            raise _Fault(f"has {what} of the shape {_sides(sides)}")
        dtype = np.dtype(_DTYPES[kind]) if kind in _DTYPES else None
        if location == _EXTERNAL:
            values = self._external(what, external, size, dtype)
        else:
            values = self._stored(what, sides, size, dtype, raw, data, packed)
        if weights and values is not None and values.dtype.kind == "f" and np.isnan(values).any():
            raise _Fault(f"has NaN in {what}")
        if kind == 7 and size == 1:
            whole = [int(values[0])] if values is not None else _integers(packed.get(7, b""))
            constants.update((name, number) for number in whole[:1])
        return name

    def _stored(
        self,
        what: str,
        sides: Sequence[int],
        size: int,
        dtype: np.dtype[Any] | None,
        raw: Data | None,
        data: Data,
        packed: Mapping[int, Data],
    ) -> np.ndarray[Any, np.dtype[Any]] | None:
        """The values of a tensor within the file; None where they are not stored as numpy's."""
        # At the least a value takes a quarter of a byte, of 2-bit types.
        fits = len(raw) == size * dtype.itemsize if raw and dtype else size <= 4 * len(data)
        if not fits:
            raise _Fault(f"has {what}, which holds other than the {_sides(sides)} values it names")
        if raw and dtype:
            return np.frombuffer(raw, dtype)
        for number, of in ((4, "f4"), (10, "f8")):
            if number in packed and len(packed[number]) % np.dtype(of).itemsize == 0:
                return np.frombuffer(packed[number], of)
        return None

    def _external(
        self, what: str, entries: Mapping[str, str], size: int, dtype: np.dtype[Any] | None
    ) -> np.ndarray[Any, np.dtype[Any]] | None:
        """The values of a tensor in another file, which must lie in the folder of this one."""
        location = entries.get("location", "")
        file = (self._folder / location).resolve() if "\0" not in location else self._folder
        within = file.is_relative_to(self._folder) and not Path(location).is_absolute()
        if not within or ".." in Path(location).parts or not file.is_file():
            where = "no file" if within else "outside of its folder"
            raise _Fault(
                f"has {what} in {_text(location.encode())!r}, which is {where}",
                "copy that file itself, no link to it, beside the model",
            )
        offset, length = (_digits(entries.get(key, ""), what) for key in ("offset", "length"))
        held = file.stat().st_size - (offset or 0)
        length = held if length is None else length
        needed = size * dtype.itemsize if dtype else size // 4
        if not needed <= length <= held:
            raise _Fault(f"has {what} in {location!r}, which is too short for it")
        if dtype is None or not size:
            return None
        return np.memmap(file, dtype, "r", offset or 0, (size,))

    def _tensor_info(self, data: Data, bounded: bool) -> bytes:
        """Name of an input or output of a graph; ``bounded`` where a caller makes its tensor."""
        name, sides = b"", []
        for number, value in self.fields(data):
            if number == 1:
                name = self._name(value)
            elif number == 2 and bounded:
                sides = self._shape(_message(value))
        if any(side < -1 for side in sides) or math.prod(map(abs, sides)) > MOST_ELEMENTS:
            raise _Fault(f"has {_shown(name)} of the shape {_sides(sides)}")
        return name

    def _shape(self, data: Data) -> list[int]:
        """``TypeProto`` → the sides of a tensor that are numbers."""
        sides = []
        for tensor in self._within(data, 1):
            for shape in self._within(tensor, 2):
                for dimension in self._within(shape, 1):
                    sides += [_signed(v) for number, v in self.fields(dimension) if number == 1]
        return sides

    def _within(self, data: Data, wanted: int) -> Iterator[Data]:
        return (_message(value) for number, value in self.fields(data) if number == wanted)

    def _name(self, value: Any) -> bytes:
        text = _bytes(value)
        if len(text) > LONGEST_NAME:
            raise _Fault(f"has a name of {len(text):,} bytes ({_shown(text[:40])}…)")
        text.decode()  # or it is not UTF-8, which is a ValueError
        return text


def _varint(data: Data, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise ValueError("truncated, or another format")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("truncated, or another format")


def _integers(value: Any) -> list[int]:
    """One, or packed ones."""
    if isinstance(value, int):
        return [_signed(value)]
    found: list[int] = []
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(_signed(number))
        if len(found) > 1000:
            raise _Fault("has a tensor of more than 1000 dimensions")
    return found


def _signed(value: Any) -> int:
    number = int(value) & (2**64 - 1)
    return number - 2**64 if number >> 63 else number


def _message(value: Any) -> Data:
    if isinstance(value, int):
        raise ValueError("another format")
    found: Data = value
    return found


def _bytes(value: Any) -> bytes:
    return bytes(_message(value))


def _domain(name: bytes) -> bytes:
    return b"" if name == b"ai.onnx" else name


def _digits(text: str, what: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _Fault(f"has {what} at {text[:20]!r} of another file")
    return int(text)


def _refuse_deep(depth: int) -> None:
    if depth > MOST_NESTED:
        raise _Fault(f"nests graphs and functions deeper than {MOST_NESTED}")


def _text(name: bytes) -> str:
    return name[:100].decode("utf-8", "replace")


def _shown(name: bytes) -> str:
    return repr(_text(name))


def _sides(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides)) or "no sides"
