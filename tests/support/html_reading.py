"""Reads a page as a browser would, and more strictly: what is opened must be closed."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from bench.record import Row

VOID = frozenset({"meta", "img", "br", "hr", "col"})


class Page(HTMLParser):
    """What a page holds.

    Attributes:
        tags: (name, attributes) of each element, in order.
        text: of everything but the style sheet.
        styles: the style sheet.
        tables: each as rows of cells, the text of each.
        captions: of the tables.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.styles = "", ""
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self.styles += data
            return
        self.text += data
        if "caption" in self._open:
            self.captions.append(data)
        if "td" in self._open or ("th" in self._open and "table" in self._open):
            cell = self.tables[-1][-1]
            cell[-1] = f"{cell[-1]} {data}".strip()

    def values(self, attribute: str) -> list[str]:
        """Of that attribute, wherever an element has it."""
        return [value for _, attributes in self.tags if (value := attributes.get(attribute))]

    def classes(self) -> set[str]:
        """Every class that an element has."""
        return {name for value in self.values("class") for name in value.split()}


def cell(page: Page, row: Row, heading: str) -> str:
    """The cell of a row under that heading, in whichever table of its setting has both."""
    found = [
        line[table[0].index(heading)]
        for table, caption in zip(page.tables, page.captions, strict=True)
        if caption.endswith(str(row.setting)) and heading in table[0]
        for line in table[1:]
        if line[0].split()[0] == row.name
    ]
    (text,) = found
    return text


def figures(text: str) -> list[float]:
    return [float(f.replace("−", "-")) for f in re.findall(r"[+−]?\d+(?:\.\d+)?", text)]


def near(text: str, *values: float, decimals: int = 2) -> bool:
    return figures(text) == [pytest.approx(v, abs=0.51 * 10**-decimals) for v in values]
