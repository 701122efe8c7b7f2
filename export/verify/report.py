"""Tables and lines of ``dabnet-export verify`` for a terminal, and pictures of the worst images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dabnet.data.dataset import Uint8Array
from dabnet.data.labels import LabelSet
from dabnet.files import replacing
from dabnet.metrics import class_iou, mean_iou
from dabnet.pictures import overlay, panel, save_picture
from dabnet.tables import line, percent, row, table
from export.verify.layers import LayerReport, Parting, TensorDifference
from export.verify.masks import Picture, Verification
from export.verify.sides import Side

DIFFERENT = (255, 0, 255)
"""Magenta, on a picture that is otherwise grey."""


def print_verification(console: Console, found: Verification) -> None:
    height, width = found.size
    for letter, side in (("A", found.a), ("B", found.b)):
        what = f"{side['kind']}, {side['precision']}; {side['backend']}"
        line(console, f"{letter}: {side['file']}  {what}")
        if side["note"]:
            line(console, f"   {side['note']}")
    line(console, f"{found.images} at {height}x{width}")
    console.print(_agreement_table(found))
    console.print(_class_table(found))
    if found.confidence:
        line(console, f"confidence {found.confidence}")
    if (logits := found.logits) is None:
        line(console, f"logits: {found.no_logits}")
        return
    sqnr = "equal" if logits.sqnr_db is None else f"SQNR {logits.sqnr_db:.1f} dB"
    line(console, f"logits: largest |difference| {logits.max_abs:.4g} ({logits.image}), {sqnr}")


def _agreement_table(found: Verification) -> Table:
    shares, interval = found.shares, found.interval()
    made = table("equal pixels", "%", "", left=("",))
    note = f"95 % [{percent(interval[0])}, {percent(interval[1])}]" if interval else ""
    row(made, "mean", percent(found.agreement), note)
    row(made, "median", percent(float(np.median(shares))))
    row(made, "5th percentile", percent(float(np.percentile(shares, 5))))
    row(made, "worst", percent(found.worst.agreement), found.worst.name)
    row(made, "images without a difference", f"{int((shares == 1).sum())} of {len(shares)}")
    return made


def _class_table(found: Verification) -> Table:
    """IoU of the two masks of each class: a small class is lost in the mean over pixels."""
    pixels = max(1, int(found.matrix.sum()))
    made = table("class", "IoU of A and B %", "pixels in A %", "in B %")
    in_a, in_b = found.matrix.sum(1) / pixels, found.matrix.sum(0) / pixels
    ious = class_iou(found.matrix)
    for name, iou, *shares in zip(found.classes, ious, in_a, in_b, strict=True):
        text = "–" if np.isnan(iou) else percent(float(iou))
        row(made, name, text, *(f"{100 * share:.2f}" for share in shares))
    made.add_section()
    row(made, "mean", percent(float(mean_iou(found.matrix))))
    return made


def print_layers(console: Console, report: LayerReport) -> None:
    made = table("tensor", "‖a−b‖ / ‖a‖", "max |a−b|", "SQNR dB")
    for tensor in report.tensors:
        row(made, *_cells(tensor), style="bold red" if tensor.parted else None)
    console.print(made)
    alone = f"{report.unmatched_a} in A only, {report.unmatched_b} in B only"
    line(console, f"{len(report.tensors)} tensors of both graphs on {report.image}; {alone}")
    if report.parting is None:
        line(console, f"the graphs do not part: no relative error above {report.tolerance:g}")
        return
    for text in _parting_lines(report.parting, report.tolerance):
        line(console, text)
    if (behind := report.rejoins) is not None:
        falls = f"behind it the error falls to {behind.relative_error or 0:.2e} ({behind.a}):"
        line(console, f"{falls} it fades, or the name stands for another value in B")


def _parting_lines(parting: Parting, tolerance: float) -> list[str]:
    lines = [
        f"they part at {parting.tensor} (relative error above {tolerance:g})",
        f"  in A computed by {parting.node_a}",
        f"  in B computed by {parting.node_b}",
    ]
    for read in parting.inputs:
        names = read.a if read.a == read.b else f"{read.a} / {read.b}"
        if read.relative_error is None:
            state = f"{list(read.shape_a)} in A, {list(read.shape_b)} in B, or not finite"
        else:
            equal = read.relative_error == 0
            state = "equal" if equal else f"relative error {read.relative_error:.2e}"
        lines.append(f"    reads {names}: {state}")
    return lines if parting.inputs else [*lines, "    they read no float tensor to compare"]


def _cells(tensor: TensorDifference) -> tuple[str, ...]:
    if tensor.shape_a != tensor.shape_b:
        return tensor.a, f"{list(tensor.shape_a)} / {list(tensor.shape_b)}", "–", "–"
    values = (tensor.relative_error, tensor.max_abs)
    relative, largest = ("–" if value is None else f"{value:.2e}" for value in values)
    equal = "equal" if tensor.relative_error == 0 else "–"
    return tensor.a, relative, largest, equal if tensor.sqnr_db is None else f"{tensor.sqnr_db:.1f}"


def save_worst(a: Side, b: Side, pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Write a panel of each picture, image | A | B | where they differ, and return the paths.

    Files are ``worst_01_NAME.png`` on, the worst first.
    """
    # Only the palette is drawn with; pixels of no class do not come from an artifact.
    labels = LabelSet(a.classes, a.palette, 255)
    written = []
    for number, picture in enumerate(pictures, start=1):
        stem = re.sub(r"[^\w.-]+", "_", str(Path(picture.name).with_suffix("")))
        path = folder / f"worst_{number:02}_{stem}.png"
        image, mask_a, mask_b = picture.image, picture.mask_a, picture.mask_b
        share = f"differ: {100 * (1 - picture.agreement):.3f} % of pixels"
        shown = [
            (picture.name, image),
            (f"A: {a.path.name}", overlay(image, mask_a, labels)),
            (f"B: {b.path.name}", overlay(image, mask_b, labels)),
            (share, differing(image, mask_a, mask_b)),
        ]
        with replacing(path) as temporary:
            save_picture(panel(shown), temporary)
        written.append(path)
    return written


def differing(image: Uint8Array, mask_a: Uint8Array, mask_b: Uint8Array) -> Uint8Array:
    """The image (H, W, 3) in dim grey, magenta where the masks (H, W) differ."""
    grey = (0.45 * image.mean(axis=2)).astype(np.uint8)
    shown = np.repeat(grey[..., None], 3, axis=2)
    shown[mask_a != mask_b] = DIFFERENT
    return shown
