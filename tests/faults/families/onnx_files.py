"""ONNX files of other people: damaged, huge, cyclic, or with a manifest that is not theirs."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dabnet.runtime.manifest import ONNX_KEY
from tests.faults.case import EITHER, FINE, REFUSED, Case, Expected
from tests.faults.damage import as_json, cut, flipped, no_files, put, texts, without
from tests.faults.manifests import MANIFESTS, WRONG_AT
from tests.faults.originals import Originals
from tests.faults.protobuf import nested, structure
from tests.faults.verdict import Result

if TYPE_CHECKING:
    import onnx

FAMILY = "onnx"

COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("dabnet-export", "inspect", "m.onnx", "--layers"),
    "json": ("dabnet-export", "inspect", "m.onnx", "--json"),
    "verify": ("dabnet-export", "verify", "good.onnx", "m.onnx", "--limit", "1"),
    "layers": ("dabnet-export", "verify", "good.onnx", "m.onnx", "--limit", "1", "--layers"),
    "trt": ("dabnet-export", "trt", "m.onnx", "--target", "sm86", "-o", "o.engine"),
    "application": ("application", "m.onnx"),
    "bench": ("dabnet-bench", "m.onnx", "--output", "o"),
}
OUTPUTS = ("o", "o/*", ".dabnet-cache", ".dabnet-cache/*")  # folders of bench, made before rows

Edit = Callable[["onnx.ModelProto", Path], None]
"""Damage the model; the folder is that of the file."""


def command(name: str, folder: Path, originals: Originals) -> list[str]:
    if "good.onnx" in COMMANDS[name]:
        (folder / "good.onnx").symlink_to(originals.fp32)
    return [*COMMANDS[name]]


def of_bytes(
    name: str, make: Callable[[bytes], bytes], on: str, expected: Expected = REFUSED
) -> Case:
    def lay(folder: Path, originals: Originals) -> list[str]:
        (folder / "m.onnx").write_bytes(make(originals.fp32.read_bytes()))
        return command(on, folder, originals)

    return Case(FAMILY, f"{name}: {on}", lay, expected, changes=OUTPUTS)


def edited(
    name: str,
    edit: Edit,
    on: str,
    expected: Expected = REFUSED,
    described: bool = False,
    **more: Any,
) -> Case:
    """A model that was changed; its manifest is that of the new graph.

    ``described`` takes the manifest away and describes the file by its data set.
    """

    def lay(folder: Path, originals: Originals) -> list[str]:
        import onnx

        from dabnet.runtime.onnx_check import graph_sha256_of

        model = onnx.load(originals.fp32)
        edit(model, folder)
        if described:
            del model.metadata_props[:]
        for entry in model.metadata_props:
            changed = json.loads(entry.value)
            changed["graph_sha256"] = graph_sha256_of(model.SerializeToString())
            entry.value = json.dumps(changed)
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        words = command(on, folder, originals)
        return [*words, "--dataset", "toy-street"] if described and on != "inspect" else words

    return Case(FAMILY, f"{name}: {on}", lay, expected, changes=OUTPUTS)


def of_manifest(
    name: str, make: Callable[[Any], Any], on: str, expected: Expected = REFUSED
) -> Case:
    """The text of the manifest is what ``make`` returns of the good one, or JSON of it."""

    def lay(folder: Path, originals: Originals) -> list[str]:
        import onnx

        model = onnx.load(originals.fp32)
        (entry,) = (entry for entry in model.metadata_props if entry.key == ONNX_KEY)
        made = make(json.loads(entry.value))
        entry.value = made if isinstance(made, str) else as_json(made)
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        return command(on, folder, originals)

    return Case(FAMILY, f"manifest {name}: {on}", lay, expected)


# --- bytes ------------------------------------------------------------------------------------


def bytes_cases() -> Iterator[Case]:
    names = [*COMMANDS][:6]
    shares = (1, 2, 10, 100, 1000, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, -200, -1)
    for index, at in enumerate(shares):

        def shorter(data: bytes, at: float = at) -> bytes:
            return data[:at] if isinstance(at, int) and at < 0 else cut(data, at)

        yield of_bytes(f"cut at {at}", shorter, names[index % 6])
        yield of_bytes(f"cut at {at}", shorter, names[(index + 3) % 6])
    for seed in range(40):
        # A bit of a weight or of a name changes the graph's hash; one of a note is harmless.
        on = ("inspect", "json", "application", "verify")[seed % 4]
        yield of_bytes(f"bit {seed} flipped", lambda data, s=seed: flipped(data, s), on, EITHER)
    for seed in range(60):
        on = ("inspect", "json", "application", "verify", "layers")[seed % 5]
        yield of_bytes(f"structure {seed} flipped", lambda d, s=seed: structure(d, s), on, EITHER)
    for kind, make in {
        "text": lambda _: b"hello",
        "NUL bytes": lambda _: bytes(5000),
        "random bytes": lambda _: random.Random(0).randbytes(5000),
        "an empty message": lambda _: b"\x3a\x00",
        "a graph twice": lambda data: data + data,
        "a field without end": lambda _: b"\x3a" + b"\xff" * 50,
        "groups": lambda _: b"\x3b" * 1000,
        "10 million fields": lambda data: data + b"\x08\x08" * 10_000_000,
        "messages within messages": lambda _: nested(200),
    }.items():
        for on in ("inspect", "application"):
            yield of_bytes(kind, make, on)
    for name, make_it, user in no_files():
        for on in ("inspect", "verify", "application", "trt", "bench"):

            def lay(folder: Path, originals: Originals, make=make_it, on=on) -> list[str]:
                make(folder / "m.onnx")
                return command(on, folder, originals)

            yield Case(FAMILY, f"is {name}: {on}", lay, user=user, changes=OUTPUTS)


# --- the graph --------------------------------------------------------------------------------


def conv(model: onnx.ModelProto) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in model.graph.node if node.op_type == "Conv")
    return found


def external(location: str, make: Callable[[Path], None] | None = None, **entries: object) -> Edit:
    def edit(model: onnx.ModelProto, folder: Path) -> None:
        if make:
            make(folder / "w.bin")
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = 1  # TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=str(value))

    return edit


def zeros(path: Path) -> None:
    path.write_bytes(bytes(9999))


EXTERNAL: dict[str, Edit] = {
    "/etc/passwd": external("/etc/passwd"),
    "above its folder": external("../../../../etc/passwd"),
    "above and back": external("../case/w.bin", zeros),
    "missing": external("w.bin"),
    "/dev/zero": external("/dev/zero"),
    "its folder": external("."),
    "without a name": external(""),
    "a name with NUL": external("w\0bin"),
    "a name of 5000": external("x" * 5000),
    "a FIFO": external("w.bin", os.mkfifo),
    "a directory": external("w.bin", Path.mkdir),
    "a link to /etc/passwd": external("w.bin", lambda path: path.symlink_to("/etc/passwd")),
    "a link to /dev/zero": external("w.bin", lambda path: path.symlink_to("/dev/zero")),
    "too short": external("w.bin", lambda path: path.write_bytes(b"xxx") and None),
    "2**50 long": external("w.bin", zeros, offset=0, length=1 << 50),
    "at -5": external("w.bin", zeros, offset=-5),
    "at 10**400": external("w.bin", lambda path: path.write_bytes(b"x") and None, offset="9" * 400),
}


def dims(*sides: int) -> Edit:
    def edit(model: onnx.ModelProto, _: Path) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(sides)

    return edit


def input_dims(*sides: int) -> Edit:
    def edit(model: onnx.ModelProto, _: Path) -> None:
        shape = model.graph.input[0].type.tensor_type.shape
        del shape.dim[:]
        for side in sides:
            shape.dim.add().dim_value = side

    return edit


def array(values: Any, dtype: str, name: str) -> onnx.TensorProto:
    import numpy as np
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(values, dtype), name)


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, **attributes)


def renamed_mask(model: onnx.ModelProto) -> str:
    """Give the tensor of the mask another name, and return the name that a new node may take."""
    name = model.graph.output[0].name
    next(n for n in model.graph.node if name in n.output).output[0] = "before"
    return name


def constant_of_4_tb(model: onnx.ModelProto, _: Path) -> None:
    model.graph.initializer.append(array([1 << 20, 1 << 20], "int64", "sides"))
    model.graph.node.append(node("ConstantOfShape", ["sides"], ["huge"]))
    model.graph.node.append(node("ReduceSum", ["huge"], ["sum"], keepdims=0))
    model.graph.node.append(node("Cast", ["sum"], ["byte"], to=2))
    mask = renamed_mask(model)
    model.graph.node.append(node("Add", ["before", "byte"], [mask]))


def custom_operator(model: onnx.ModelProto, _: Path) -> None:
    conv(model).domain, conv(model).op_type = "evil.ops", "Rm"


def loop(rounds: int | None) -> Edit:
    """The mask goes through a loop; None: for as long as a condition that is always true."""

    def edit(model: onnx.ModelProto, _: Path) -> None:
        from onnx import TensorProto, helper

        value = helper.make_tensor_value_info
        body = helper.make_graph(
            [node("Identity", ["go"], ["goes"]), node("Identity", ["v"], ["w"])],
            "body",
            [
                value("i", TensorProto.INT64, []),
                value("go", TensorProto.BOOL, []),
                value("v", TensorProto.UINT8, None),
            ],
            [value("goes", TensorProto.BOOL, []), value("w", TensorProto.UINT8, None)],
        )
        model.graph.initializer.append(array(True, "bool", "yes"))
        if rounds is not None:
            model.graph.initializer.append(array(rounds, "int64", "rounds"))
        mask = renamed_mask(model)
        given = ["" if rounds is None else "rounds", "yes", "before"]
        model.graph.node.append(node("Loop", given, [mask], body=body))

    return edit


def identity_cycle(model: onnx.ModelProto, _: Path) -> None:
    model.graph.node.extend([node("Identity", ["p"], ["q"]), node("Identity", ["q"], ["p"])])
    conv(model).input[1] = "p"


def identity_of_itself(model: onnx.ModelProto, _: Path) -> None:
    model.graph.node.append(node("Identity", ["p"], ["p"]))
    conv(model).input[1] = "p"


def nested_ifs(depth: int) -> Edit:
    def edit(model: onnx.ModelProto, _: Path) -> None:
        from onnx import TensorProto, helper

        def branch(nodes: list[onnx.NodeProto], name: str) -> onnx.GraphProto:
            result = helper.make_tensor_value_info(name, TensorProto.BOOL, [])
            return helper.make_graph(nodes, name, [], [result])

        inner = [node("Identity", ["c"], ["o0"])]
        for level in range(1, depth + 1):
            others = branch([node("Identity", ["c"], [f"e{level}"])], f"e{level}")
            then = branch(inner, f"o{level - 1}")
            made = node("If", ["c"], [f"o{level}"], then_branch=then, else_branch=others)
            inner = [made]
        model.graph.initializer.append(array(True, "bool", "c"))
        model.graph.node.extend(inner)

    return edit


def functions(model: onnx.ModelProto, bodies: dict[str, list[onnx.NodeProto]], called: str) -> None:
    from onnx import helper

    sets = [helper.make_opsetid("f", 1), helper.make_opsetid("", 17)]
    model.opset_import.append(sets[0])
    for name, nodes in bodies.items():
        model.functions.append(helper.make_function("f", name, ["x"], ["y"], nodes, sets))
    given = model.graph.input[0].name
    model.graph.node.append(node(called, [given], ["of function"], domain="f"))


def function_of_itself(model: onnx.ModelProto, _: Path) -> None:
    functions(model, {"F": [node("F", ["x"], ["y"], domain="f")]}, "F")


def functions_of_each_other(model: onnx.ModelProto, _: Path) -> None:
    bodies = {name: [node(other, ["x"], ["y"], domain="f")] for name, other in ("FG", "GF")}
    functions(model, bodies, "F")


def functions_that_double(times: int) -> Edit:
    def edit(model: onnx.ModelProto, _: Path) -> None:
        bodies = {"F0": [node("Identity", ["x"], ["y"])]}
        for index in range(1, times + 1):
            inner = f"F{index - 1}"
            first, second = (
                node(inner, ["x"], ["t"], domain="f"),
                node(inner, ["t"], ["y"], domain="f"),
            )
            bodies[f"F{index}"] = [first, second]
        functions(model, bodies, f"F{times}")

    return edit


def predicts_200(model: onnx.ModelProto, _: Path) -> None:
    model.graph.initializer.append(array([200], "uint8", "least"))
    mask = renamed_mask(model)
    model.graph.node.append(node("Max", ["before", "least"], [mask]))


def weights_of(value: str) -> Edit:
    def edit(model: onnx.ModelProto, _: Path) -> None:
        from onnx import numpy_helper

        tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        values = numpy_helper.to_array(tensor) * 0
        tensor.CopyFrom(array(values + float(value), "float32", tensor.name))

    return edit


def mask_of_int64(model: onnx.ModelProto, _: Path) -> None:
    model.graph.output[0].type.tensor_type.elem_type = 7


def two_outputs(model: onnx.ModelProto, _: Path) -> None:
    model.graph.output.add(name=conv(model).output[0]).type.tensor_type.elem_type = 1


def with_attribute(**values: Any) -> Edit:
    """Set fields of the model, as ``setattr`` does."""

    def edit(model: onnx.ModelProto, _: Path) -> None:
        for name, value in values.items():
            setattr(model, name, value)

    return edit


def opset(version: int) -> Edit:
    def edit(model: onnx.ModelProto, _: Path) -> None:
        model.opset_import[0].version = version

    return edit


ALWAYS_BAD: dict[str, Edit] = {
    "initializer of 10**12": dims(10**12),
    "initializer of -1": dims(-1, 3, 3, 3),
    "initializer of 2**80": dims(1 << 40, 1 << 40),
    "input of 10**12 pixels": input_dims(1, 10**6, 10**6, 3),
    "input of -64": input_dims(-1, -64, 128, 3),
    "loop that never ends": loop(None),
    "loop of 10**12 rounds": loop(10**12),
    "identity cycle as weights": identity_cycle,
    "identity of itself": identity_of_itself,
    "ifs nested 32 deep": nested_ifs(32),
    "function calls itself": function_of_itself,
    "functions call each other": functions_of_each_other,
    "functions double 25 times": functions_that_double(25),
    "functions nested 2000 deep": functions_that_double(2000),
    "weights NaN": weights_of("nan"),
    "no graph": lambda model, _: model.ClearField("graph"),
    "no nodes": lambda model, _: model.graph.ClearField("node"),
    "an initializer twice": lambda model, _: model.graph.initializer.extend(
        model.graph.initializer[:1]
    ),
    "a node twice": lambda model, _: model.graph.node.extend(model.graph.node[:1]),
}
"""Refused by every reader before it parses the file."""

FOR_A_RUN: dict[str, tuple[Edit, Expected]] = {
    "constant of 4 TB": (constant_of_4_tb, REFUSED),
    "input without sides": (input_dims(), REFUSED),
    "custom operator": (custom_operator, REFUSED),
    "loop of 3 rounds": (loop(3), EITHER),
    "ifs nested 20 deep": (nested_ifs(20), EITHER),
    "functions double 5 times": (functions_that_double(5), EITHER),
    "weights infinite": (weights_of("inf"), EITHER),  # a mask comes of it: of one class
    "weights zero": (weights_of("0"), EITHER),
    "mask of int64": (mask_of_int64, REFUSED),
    "two outputs": (two_outputs, REFUSED),
    "opset 9999": (opset(9999), REFUSED),
    "opset -1": (opset(-1), REFUSED),
    "opset 0": (opset(0), REFUSED),
    "ir_version 9999": (with_attribute(ir_version=9999), EITHER),  # later files may still be read
    "ir_version -1": (with_attribute(ir_version=-1), EITHER),
}


def graph_cases() -> Iterator[Case]:
    for name, edit in EXTERNAL.items():
        for on in ("inspect", "verify", "application", "trt", "layers"):
            yield edited(f"external {name}", edit, on)
    for name, edit in ALWAYS_BAD.items():
        for on in ("inspect", "json", "verify", "application", "trt"):
            yield edited(name, edit, on)
    for name in ("loop that never ends", "function calls itself", "identity of itself"):
        yield edited(f"{name}, described", ALWAYS_BAD[name], "verify", described=True)
        yield edited(f"{name}, described", ALWAYS_BAD[name], "bench", described=True)
    for name, (edit, expected) in FOR_A_RUN.items():
        for on in ("verify", "application", "trt"):
            # TensorRT knows fewer operators, and reads later opsets.
            yield edited(name, edit, on, EITHER if on == "trt" else expected)
        for on in ("inspect", "json"):
            yield edited(name, edit, on, EITHER)  # looked at, and not run
    for on in ("verify", "application"):
        yield edited("predicts class 200", predicts_200, on)
    yield from odd_nodes()
    yield from odd_names()


def odd_nodes() -> Iterator[Case]:
    def without_inputs(model: onnx.ModelProto, _: Path) -> None:
        del conv(model).input[:]

    def without_outputs(model: onnx.ModelProto, _: Path) -> None:
        del conv(model).output[:]

    def silent(model: onnx.ModelProto, _: Path) -> None:
        model.graph.node.append(node("NonZero", ["image"], []))

    def scalars(model: onnx.ModelProto, _: Path) -> None:
        model.graph.initializer.extend([array([1, 1, 1], "float32", "v"), array(1, "float32", "s")])
        model.graph.node.append(node("Gemm", ["v", "v"], ["g"]))
        model.graph.node.append(node("MatMul", ["s", "s"], ["m"]))

    def empty_dequantize(model: onnx.ModelProto, _: Path) -> None:
        model.graph.node.insert(0, node("DequantizeLinear", [], ["dq"]))
        conv(model).input[1] = "dq"

    def scalar_nonzero(model: onnx.ModelProto, _: Path) -> None:
        from onnx import TensorProto, helper

        model.graph.node.append(node("NonZero", ["image"], ["nz"]))
        info = helper.make_tensor_value_info("nz", TensorProto.INT64, [])
        model.graph.value_info.append(info)

    def untyped(model: onnx.ModelProto, _: Path) -> None:
        model.graph.input[0].ClearField("type")

    def no_inputs(model: onnx.ModelProto, _: Path) -> None:
        model.graph.ClearField("input")

    def of_unknown_type(model: onnx.ModelProto, _: Path) -> None:
        model.graph.input[0].type.tensor_type.elem_type = 9999

    def no_opset(model: onnx.ModelProto, _: Path) -> None:
        model.ClearField("opset_import")

    edits = {
        "Conv without inputs": without_inputs,
        "Conv without outputs": without_outputs,
        "NonZero without outputs": silent,
        "Gemm and MatMul of scalars": scalars,
        "DequantizeLinear without inputs": empty_dequantize,
        "NonZero declared a scalar": scalar_nonzero,
        "input without a type": untyped,
        "no inputs": no_inputs,
        "input of type 9999": of_unknown_type,
        "no opset": no_opset,
    }
    for name, edit in edits.items():
        for on in ("inspect", "json", "application"):
            # Of a graph that no library runs, ``inspect`` may still tell what it is.
            yield edited(name, edit, on, EITHER)


def odd_names() -> Iterator[Case]:
    names = {
        "control characters": "\x1b[2J\x1b]0;owned\x07",
        "markup": "[/red][bold",
        "HTML": "</td><script>alert(1)</script>",
        "lines": "a\nerror: fake\r",
        "other direction": "\u202eabc",
        "10 MB": "x" * 10_000_000,
        "1 MB of two-byte letters": "ä" * 500_000,
    }
    for name, text in names.items():

        def edit(model: onnx.ModelProto, _: Path, text: str = text) -> None:
            image = model.graph.input[0].name
            conv(model).name = model.producer_name = text
            for each in model.graph.node:
                each.input[:] = [text if given == image else given for given in each.input]
            model.graph.input[0].name = text

        for on in ("inspect", "json", "verify", "application"):
            yield edited(f"names of {name}", edit, on, EITHER)


# --- the manifest -----------------------------------------------------------------------------


def manifest_cases() -> Iterator[Case]:
    names = ("inspect", "application", "verify", "json")
    for index, (name, content) in enumerate(texts()):
        text = content.decode("utf-8", "replace")
        yield of_manifest(f"holds {name}", lambda _, text=text: text, names[index % 4])
        if "deep" in name:
            yield of_manifest(f"holds {name}", lambda _, text=text: text, names[(index + 1) % 4])
    for index, (name, change) in enumerate(MANIFESTS.items()):
        yield of_manifest(name, change, names[index % 4])
    for index, (path, kind, value) in enumerate(WRONG_AT):
        label = f"{'.'.join(map(str, path))} is {kind}"
        yield of_manifest(label, lambda m, p=path, v=value: put(m, p, v), names[index % 4])

    def lacks(path: tuple[str, ...]) -> Callable[[Any], Any]:
        return lambda manifest: without(manifest, path)

    for key in ("model", "classes", "palette", "input", "output", "precision", "example", "format"):
        yield of_manifest(f"without {key}", lacks((key,)), "inspect")
    yield of_manifest("of another graph", lambda m: {**m, "graph_sha256": "0" * 64}, "application")
    yield of_manifest("of another graph", lambda m: {**m, "graph_sha256": "0" * 64}, "trt")
    yield of_manifest("of another graph", lambda m: {**m, "graph_sha256": "0" * 64}, "bench")
    # Whoever compares or describes it is told, and goes on.
    told = {"verify": "changed after its export", "inspect": "CHANGED after its export"}
    for on, words in told.items():

        def check(_: Path, result: Result, words: str = words) -> str:
            return "" if words in result.out else "not told that it was changed"

        case = of_manifest("of another graph", lambda m: {**m, "graph_sha256": "0" * 64}, on, FINE)
        yield Case(FAMILY, case.name, case.lay, FINE, check=check)
    yield of_manifest("as it was", lambda m: m, "application", FINE)


def renamed_cases() -> Iterator[Case]:
    """Files of other kinds under the name of an ONNX file."""
    kinds: dict[str, Callable[[Originals], Path]] = {
        "a checkpoint": lambda o: o.weights,
        "an engine": lambda o: o.engine,
        "a calibration": lambda o: o.calibration,
        "a record": lambda o: o.record / "bench.json",
        "a page": lambda o: o.record / "bench.html",
    }
    for name, source in kinds.items():
        for on in ("inspect", "application"):

            def lay(folder: Path, originals: Originals, source=source, on=on) -> list[str]:
                shutil.copy(source(originals), folder / "m.onnx")
                return command(on, folder, originals)

            yield Case(FAMILY, f"is {name}: {on}", lay)


def cases() -> Iterator[Case]:
    yield from bytes_cases()
    yield from graph_cases()
    yield from manifest_cases()
    yield from renamed_cases()
