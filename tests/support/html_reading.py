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
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.styles = "", ""
        self.tables: list[list[list[str]]] = []
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
        if "td" in self._open or ("th" in self._open and "table" in self._open):
            cell = self.tables[-1][-1]
            cell[-1] = f"{cell[-1]} {data}".strip()

    def values(self, attribute: str) -> list[str]:
        """Of that attribute, wherever an element has it."""
        return [value for _, attributes in self.tags if (value := attributes.get(attribute))]

    def classes(self) -> set[str]:
        """Every class that an element has."""
        return {name for value in self.values("class") for name in value.split()}


def cell(page: Page, row: Row, group: str, heading: str, table: int = 0) -> str:
    """The cell of a row in the main table of one setting."""
    groups, headings, *body = page.tables[table]
    spans = spans_of(page)[table]
    columns = [g for g, span in zip(groups[1:], spans, strict=True) for _ in range(span)]
    index = next(
        n for n, pair in enumerate(zip(columns, headings, strict=True)) if pair == (group, heading)
    )
    line = next(line for line in body if line[0].split()[0] == row.name)
    return line[index + 1]


def spans_of(page: Page) -> list[list[int]]:
    """Columns under each heading over several, by table."""
    found: list[list[int]] = []
    for name, attributes in page.tags:
        if name == "table":
            found.append([])
        elif name == "th" and attributes.get("scope") == "colgroup":
            found[-1].append(int(attributes["colspan"] or 1))
    return found


def figures(text: str) -> list[float]:
    return [float(f.replace("−", "-")) for f in re.findall(r"[+−]?\d+(?:\.\d+)?", text)]


def near(text: str, *values: float, decimals: int = 2) -> bool:
    return figures(text) == [pytest.approx(v, abs=0.51 * 10**-decimals) for v in values]
