"""matplotlib figures as inline SVG that takes font, ink and palette from the page around it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7f87")
"""Okabe and Ito's colours (2008), which the colour-blind can tell apart, and a grey."""
INK, SOFT, HAIR = "#010101", "#020202", "#030303"
ON_PAGE = {colour: f"var(--k{n},{colour})" for n, colour in enumerate(PALETTE)} | {
    INK: "currentColor",
    SOFT: "var(--soft,currentColor)",
    HAIR: "var(--hair,#8884)",
}
"""Colour in matplotlib → colour on the page, whose style sheet may choose another in the dark."""

_HALO = "paint-order:stroke;stroke:var(--card,Canvas);stroke-width:3px;stroke-linejoin:round"
_SMALL = ("axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize")
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.usetex", "text.parse_math", "legend.frameon"), False),
    **dict.fromkeys(("axes.spines.left", "axes.spines.right", "axes.spines.top"), False),
    **dict.fromkeys(("xtick.bottom", "ytick.left"), False),
    **dict.fromkeys((*_SMALL, "legend.fontsize"), 11),
    **dict.fromkeys(("axes.edgecolor", "axes.titlecolor", "axes.labelcolor"), SOFT),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor", "legend.labelcolor"), SOFT),
    **{"axes.titlelocation": "left", "axes.titley": 1.0, "xaxis.labellocation": "right"},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": HAIR, "grid.linewidth": 1},
    **{"axes.facecolor": "none", "text.color": INK, "svg.fonttype": "none"},
    **{"font.size": 12, "lines.markersize": 7},
}


@contextmanager
def style(salt: str = "") -> Iterator[None]:
    """Draw text as text, without formulas in it, and with ids that depend on ``salt`` alone."""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's font may have it
        yield


def clean(text: str) -> str:
    """Replace line breaks, control characters and marks that change the direction of text."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class Chart:
    """A figure whose unit is the px of its viewBox, and the tooltips of its artists."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure((width / 72, height / 72), dpi=72, frameon=False)
        self._tooltips: dict[str, Sequence[str]] = {}

    def axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        """Return axes between those px, counted from the upper left corner."""
        size = (right - left) / self.width, (bottom - top) / self.height
        return self.figure.add_axes((left / self.width, 1 - bottom / self.height, *size))

    def explain(self, artist: Artist, *tooltips: str) -> None:
        """Give an artist its tooltip, or each of its marks one."""
        artist.set_gid(f"explained-{len(self._tooltips)}")
        self._tooltips[f"explained-{len(self._tooltips)}"] = tooltips

    def svg(self, title: str, label: str) -> str:
        """Return the figure as an element for a page; ``label`` is read out in its stead."""
        file, unsaid = StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with style(f"{title} {self.width}"):
            self.figure.savefig(file, format="svg", metadata=unsaid)
        root = ElementTree.fromstring(file.getvalue())
        for node in list(root.iter()):
            self._adapt(node)
        for definitions in root.findall("defs"):  # a style for all elements, and clip paths
            root.remove(definitions)
        size = {"viewBox": f"0 0 {self.width} {self.height}", "style": f"max-width:{self.width}px"}
        root.attrib = {"class": "chart", **size, "role": "img", "aria-label": clean(label)}
        name = ElementTree.Element("title")
        name.text = clean(title)
        root.insert(0, name)
        return ElementTree.tostring(root, encoding="unicode")

    def _adapt(self, node: ElementTree.Element) -> None:
        """Make an element of matplotlib's file one of a page."""
        node.tag, node.tail = node.tag.rpartition("}")[2], None
        found = {key.rpartition("}")[2]: value for key, value in node.attrib.items()}
        look = re.sub("#[0-9a-f]{6}", lambda c: ON_PAGE.get(c[0], c[0]), found.pop("style", ""))
        look = re.sub(r"font[-a-z]*: (?:[^;]*?([\d.]+px))?[^;]*;? ?", _font, look)
        if node.tag == "text":
            look += f";{_HALO}"
        else:
            node.text = None
        tooltips = self._tooltips.get(found.get("id", ""), ())
        for number, mark in enumerate(node.findall(".//{*}use") or [node] if tooltips else ()):
            ElementTree.SubElement(mark, "title").text = clean(tooltips[number % len(tooltips)])
        kept = ("id", "href", "d", "x", "y") if node.tag == "path" else ("href", "x", "y")
        node.attrib = {key: _short(found[key]) for key in kept if key in found}
        if look:
            node.set("style", look)


def _font(match: re.Match[str]) -> str:
    """The size of a font without its family, which is that of the page."""
    return f"font-size:{match[1]};" if match[1] else ""


def _short(value: str) -> str:
    """Coordinates with two decimals."""
    return re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", value).replace(" \n", " ")


def fit(axes: Axes, name: str, values: ArrayLike, margin: float, ticks: int) -> None:
    """Make an axis (x or y) hold the values; logarithmic where the greatest is over 4 × the least.

    Args:
        margin: room on either side, as a share of the range.
        ticks: the maximum, of a linear axis.
    """
    from matplotlib import ticker

    low, high = float(np.min(values)), float(np.max(values))
    axis = axes.xaxis if name == "x" else axes.yaxis
    if low > 1e-9 and high > 4 * low:
        room = (high / low) ** margin
        steps = (1, 1.5, 2, 3, 5, 7) if high < 20 * low else (1, 2, 5) if high < 200 * low else (1,)
        axes.set(**{f"{name}scale": "log", f"{name}lim": (low / room, high * room)})
        axis.set_major_locator(ticker.LogLocator(subs=steps, numticks=ticks))
    else:
        room = (high - low) * margin or abs(high) * 0.05 or 1.0
        axes.set(**{f"{name}lim": (low - room, high + room)})
        axis.set_major_locator(ticker.MaxNLocator(ticks, steps=(1, 2, 5, 10)))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:.6g}".replace("-", "−"))
