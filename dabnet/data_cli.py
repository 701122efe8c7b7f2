"""The command ``dabnet-data``: look at a data set before training on it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dabnet import __version__
from dabnet.command_help import Group
from dabnet.console import CONTEXT, FILE, progress_bar, run, say
from dabnet.data.registry import DATASETS
from dabnet.errors import InputError
from dabnet.files import replacing, writable_target
from dabnet.outputs import PICTURE

if TYPE_CHECKING:
    from dabnet.data.check import CheckedSplit

SHEETS = (".png", ".jpg")
SHOWN = 8
"""Images of each split in the sheet of pictures."""
NAMED = 5
"""Faults of a kind that are named; the others are counted."""


@click.group(cls=Group, context_settings=CONTEXT, no_args_is_help=False)
@click.version_option(__version__)
def data_group() -> None:
    """Look at a data set."""


@data_group.command("check", context_settings=CONTEXT)
@click.argument("directory", metavar="DIR", type=FILE)
@click.option(
    "--dataset",
    type=click.Choice([name for name, source in DATASETS.items() if source.folder]),
    default="folder",
    show_default=True,
    help="Its layout",
)
@click.option(
    "--classes",
    type=FILE,
    metavar="FILE",
    help="Classes, 'name' or 'R G B name' per line.",
    show_default="DIR/classes.txt",
)
@click.option(
    "--sheet",
    type=FILE,
    metavar="FILE",
    default="data-check.png",
    show_default=True,
    help="Images under their labels.",
)
def check_command(directory: Path, dataset: str, classes: Path | None, sheet: Path) -> None:
    """Report what is in a data set, and what is wrong with it.

    Exit code 0: it can be trained on; 2: something is wrong.
    """
    from dabnet.data.check import check_dataset
    from dabnet.data.labels import read_labels

    if sheet.suffix.lower() not in SHEETS:
        raise InputError(f"--sheet {str(sheet)!r}", "a name that ends in " + " or ".join(SHEETS))
    writable_target(sheet, kind=PICTURE)
    labels = read_labels(classes) if classes else None
    splits, closed = check_dataset(dataset, directory, labels, SHOWN, progress_bar)
    if not splits:
        raise closed[0]
    say(f"{dataset} in {directory}: {len(splits[0].labels.classes)} classes")
    for split in splits:
        say(f"  {split.split:<9}{split.images:>6} images  {_sizes(split.sizes)}")
    _print_shares(splits)
    wrong = _print_faults(splits, closed)
    _draw(splits, sheet)
    if wrong:
        raise InputError(
            f"the data set in {str(directory)!r} has {_some(wrong, 'fault')}",
            fix="they are listed above",
        )


def _some(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    """Such as ``96x128 (20), 64x64 (4)``; of many, the smallest and the largest by area."""
    if len(sizes) <= 3:
        return ", ".join(f"{h}x{w} ({count})" for (h, w), count in sizes.most_common())
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    (h, w), (height, width) = ordered[0], ordered[-1]
    return f"{len(sizes)} sizes from {h}x{w} to {height}x{width}"


def _print_shares(splits: list[CheckedSplit]) -> None:
    from dabnet.tables import line, percent, row, table, terminal

    console, labels = terminal(), splits[0].labels
    made = table("share of labelled pixels, %", *(split.split for split in splits))
    for index, name in enumerate(labels.classes):
        counts = [split.counts for split in splits]
        shares = (c.class_share[index] if c.class_pixels[index] else None for c in counts)
        row(made, name, *("–" if share is None else percent(share) for share in shares))
    ignored = (
        percent(1 - sum(s.counts.class_pixels) / s.counts.pixels) if s.images else "–"
        for s in splits
    )
    row(made, "(ignored, of all pixels)", *ignored)
    console.print(made)
    for split in (split for split in splits if split.images):
        pairs = zip(labels.classes, split.counts.class_pixels, strict=True)
        if never := [name for name, pixels in pairs if not pixels]:
            line(console, f"never in {split.split}: {', '.join(never)}")


def _print_faults(splits: list[CheckedSplit], closed: list[InputError]) -> int:
    """Print what is wrong by kind; return how many faults there are."""
    from dabnet.data.file_pairs import WrongSize
    from dabnet.data.image_files import UnreadableFile
    from dabnet.data.label_files import ForeignLabel
    from dabnet.data.statistics import check_classes_occur

    kinds = {
        UnreadableFile: "files that cannot be read",
        ForeignLabel: "masks with values or colours outside the classes",
        WrongSize: "masks of another size than their image",
        InputError: "splits and pairs",
    }
    # A fault of a folder shows in each of its splits.
    found = {str(fault): fault for split in splits for fault in split.faults}
    found.update({str(fault): fault for fault in closed})
    for split in splits:
        try:
            if split.images and split.split == "train":
                check_classes_occur(split.counts, split.labels, split.split)
        except InputError as error:
            found[str(error)] = error
    for kind, heading in kinds.items():
        of_kind = [
            text
            for text, fault in found.items()
            if next(k for k in kinds if isinstance(fault, k)) is kind
        ]
        if of_kind:
            say(f"{heading}: {len(of_kind)}")
            say("".join(f"  {text}\n" for text in of_kind[:NAMED]), nl=False)
            if len(of_kind) > NAMED:
                say(f"  … and {len(of_kind) - NAMED} more")
    return len(found)


def _draw(splits: list[CheckedSplit], target: Path) -> None:
    from dabnet.pictures import labelled_sheet, save_picture

    if items := [item for split in splits for item in split.shown]:
        with replacing(target) as temporary:
            save_picture(labelled_sheet(items, splits[0].labels), temporary)
        say(f"wrote {target}")


def main() -> None:
    """Entry point of ``dabnet-data``."""
    run(data_group)
