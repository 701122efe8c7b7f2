"""The classes of a data set and their palette."""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[int, int, int]
Category = tuple[str, tuple[int, ...]]
"""A name and the class indices it covers."""


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The classes of a data set, in index order.

    Attributes:
        classes: class names; the index in this tuple is the label value.
        palette: one RGB colour (0…255) per class.
        ignore: the label value of pixels that count neither in the loss nor in the score.
        categories: groups of classes that the data set's benchmark scores as well.
    """

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore: int
    categories: tuple[Category, ...] = ()

    @classmethod
    def of(
        cls, colours: dict[str, Colour], ignore: int, categories: tuple[Category, ...] = ()
    ) -> LabelSet:
        """Return the label set of a table of class names and their colours."""
        return cls(tuple(colours), tuple(colours.values()), ignore, categories)


NO_LABELS = LabelSet((), (), 255)
"""Of images without labels."""
