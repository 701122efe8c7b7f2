"""What ``dabnet-export inspect`` prints: an inspection as lines and tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from dabnet.artifact import ENGINE
from dabnet.tables import line, percent, row, table
from export.graph.layers import Layer, total_multiply_adds
from export.inspection.artifact import Inspection, Tensor

HASH_DIGITS = 12


def print_inspection(console: Console, found: Inspection, layers: bool = False) -> None:
    """Print every section that has something to say; ``layers`` lists each layer too."""
    line(console, f"{found.file}  {found.kind}, {found.bytes / 1e6:.2f} MB")
    for name, text in _facts(found):
        line(console, f"  {name:<15}{text}")
    for note in found.notes:
        line(console, f"  {note}")
    _print_tensors(console, found)
    if found.operators:
        made = table("operator" if found.kind == "onnx" else "module", "count")
        for name, count in found.operators.items():
            row(made, name, str(count))
        made.add_section()
        row(made, "total", str(sum(found.operators.values())))
        console.print(made)
    _print_precisions(console, found)
    if layers:
        _print_layers(console, found.layers)
    _print_totals(console, found)


def _facts(found: Inspection) -> list[tuple[str, str]]:
    """Name and text of each line of the head."""
    facts = [("sha256", _short(found.sha256))]
    if found.checkpoint is not None:
        facts += _checkpoint_facts(found.checkpoint)
    if found.manifest is not None:
        facts += _manifest_facts(found.manifest)
    if found.opset:
        versions = ", ".join(f"{domain} {version}" for domain, version in found.opset.items())
        facts.append(("opset", f"{versions}; IR version {found.ir_version}"))
    if found.producer:
        facts.append(("producer", found.producer))
    return facts


def _checkpoint_facts(held: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("model", f"{held['model']}, trained on {held['dataset']}, epoch {held['epoch']}"),
        ("classes", f"{len(held['classes'])}: {', '.join(held['classes'])}"),
    ]
    if held["metrics"]:
        metrics = (f"{name} {value:.4f}" for name, value in held["metrics"].items())
        facts.append(("metrics", ", ".join(metrics)))
    return facts


def _manifest_facts(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """The manifest in words; the whole is in the JSON."""
    classes = manifest["classes"]
    facts = [
        ("model", f"{manifest['model']}, trained on {manifest['dataset']}"),
        ("classes", f"{len(classes)}: {', '.join(classes)}"),
        ("precision", manifest["precision"]),
        ("optimised for", manifest["optimized_for"]),
    ]
    for applied in manifest["passes"]:
        note = f" ({applied['note']})" if applied["note"] else ""
        facts.append(("pass", f"{applied['name']}, {applied['changed']} places{note}"))
    if manifest["logits"]:
        facts.append(("logits", manifest["logits"]))
    if ranges := manifest["calibration"]:
        facts.append(
            (
                "ranges",
                f"{ranges['method']} of {ranges['images']} images of {ranges['dataset']}"
                f" {ranges['split']}" + (f", {ranges['placement']}" if ranges["placement"] else ""),
            )
        )
        if ranges["float_layers"]:
            facts.append(("left in float", ", ".join(ranges["float_layers"])))
    if agreement := manifest["agreement"]:
        # What was compared is the ONNX file: an engine built for another machine cannot run here.
        subject = "its ONNX file gives " if manifest["engine"] else ""
        facts.append(
            (
                "agreement",
                f"{subject}{percent(agreement['mean'])} % of pixels equal to PyTorch FP32's,"
                f" worst image {percent(agreement['worst'])} % ({agreement['images']})",
            )
        )
    if engine := manifest["engine"]:
        facts += _engine_facts(engine)
    facts.append(("checkpoint", _short(manifest["checkpoint_sha256"])))
    if manifest["onnx_sha256"]:
        facts.append(("ONNX", _short(manifest["onnx_sha256"])))
    libraries = (f"{name} {version}" for name, version in manifest["libraries"].items())
    made = ", ".join((f"dabnet-export {manifest['tool_version']}", *libraries))
    return [*facts, ("made with", made)]


def _engine_facts(engine: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [("engine", f"{engine['product']} {engine['version']} for {engine['target']}")]
    if engine["gpu"]:
        card = f"{engine['gpu']}, compute capability {engine['compute_capability']}"
        facts.append(("built on", f"{card}, driver {engine['driver']}"))
    if engine["profile"]:
        shapes = ("x".join(map(str, shape)) for shape in engine["profile"])
        facts.append(("profile", "smallest {}, best {}, largest {}".format(*shapes)))
    if engine["compatibility"]:
        others = {"hardware": "other GPUs", "version": "other versions"}
        names = (others.get(name, name) for name in engine["compatibility"])
        facts.append(("also runs on", ", ".join(names)))
    return facts


def _print_tensors(console: Console, found: Inspection) -> None:
    made = table("tensor", "direction", "type", "shape", left=("direction", "type", "shape"))
    for direction, tensors in (("input", found.inputs), ("output", found.outputs)):
        for tensor in tensors:
            row(made, tensor.name, direction, tensor.dtype, _sides(tensor))
    console.print(made)


def _print_precisions(console: Console, found: Inspection) -> None:
    """Layers by type; with multiply-adds, since one early layer may weigh as much as thirty."""
    if found.kind == ENGINE:  # it tells no shapes, so that only layers can be counted
        made = table("computes in", "layers")
        for kind, count in found.precisions.items():
            row(made, kind, str(count))
        console.print(made)
        return
    made = table("computes in", "layers", "parameters", "M multiply-adds", "share %")
    for kind, count in found.precisions.items():
        layers = tuple(layer for layer in found.layers if layer.precision == kind)
        macs = total_multiply_adds(layers)
        whole = found.multiply_adds
        share = "–" if macs is None or not whole else f"{100 * macs / whole:.1f}"
        parameters = f"{sum(layer.parameters or 0 for layer in layers):,}"
        row(made, kind, str(count), parameters, _millions(macs), share)
    console.print(made)


def _print_layers(console: Console, layers: tuple[Layer, ...]) -> None:
    made = table(
        "layer",
        "operator",
        "computes in",
        "output",
        "parameters",
        "M multiply-adds",
        left=("operator", "computes in"),
    )
    for layer in layers:
        shape = "x".join(map(str, layer.output_shape)) if layer.output_shape else "–"
        macs = _millions(layer.multiply_adds)
        row(
            made,
            layer.name,
            layer.operator,
            layer.precision,
            shape,
            "–" if layer.parameters is None else f"{layer.parameters:,}",
            macs,
        )
    console.print(made)


def _print_totals(console: Console, found: Inspection) -> None:
    if found.parameters is not None:
        line(console, f"{found.parameters:,} parameters")
    if found.multiply_adds is not None:
        where = f" at {'x'.join(map(str, found.example))} (NxHxW)" if found.example else ""
        line(console, f"{found.multiply_adds / 1e9:.2f} G multiply-adds a call{where}")
    elif found.kind != ENGINE and found.layers:
        line(console, "multiply-adds unknown: the graph leaves sizes open; name one with --size")


def _sides(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def _millions(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:.2f}"


def _short(digest: str) -> str:
    return digest[:HASH_DIGITS] if digest else "–"
