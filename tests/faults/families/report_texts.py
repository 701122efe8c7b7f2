"""Texts of a record in a terminal, in HTML, in Markdown and in CSV: none is markup or a command."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.faults.case import FINE, Case
from tests.faults.damage import places, put
from tests.faults.families.records import BESIDE, OUTPUT, USES, Document, document, record_case

FAMILY = "report text"
TEXTS = {
    "rich markup": "[/red]",
    "rich markup of a style": "[bold red]x[/bold]",
    "a backslash before markup": "\\[/x]\\",
    "an emoji's name": ":gun:",
    "ESC": "\x1b[2J\x1b[31mred",
    "the title of a terminal": "\x1b]0;owned\x07",
    "C1": "\x9b31mred",
    "BEL and NUL": "a\x07\x00b",
    "carriage return": "good\rbad",
    "new lines": "a\n\nerror: none",
    "another direction": "\u202ecod.exe",
    "the end of a line by its name": "a\u2028b",
    "nothing visible": "\u200b\u2060",
    "letters of two columns": "日本語の名前",
    "joined marks": "a" + "\u0301" * 50,
    "script": "</style></title><script>alert(1)</script>",
    "an event": "\"'><img src=x onerror=alert(1)>",
    "a template": "{{ 7 * 7 }}{% raw %}",
    "an entity": "&lt;script&gt;&#60;",
    "a comment": "<!-- x --><![CDATA[",
    "a cell of Markdown": "a | b || c",
    "a link of Markdown": "[x](javascript:alert(1))",
    "a picture of Markdown": "![x](http://localhost/x.png)",
    "a definition of Markdown": "[x]: http://localhost",
    "code of Markdown": "`x` **b** _c_ # d",
    "a formula": "=cmd|' /C calc'!A0",
    "a formula with +": "+1+1",
    "a formula with -": "-1+1",
    "a formula with @": "@SUM(1)",
    "a formula behind a tab": "\t=1+1",
    "quotes and commas": "a,\"b\",'c';d",
    "a format": "{0} %s %(x)s {x!r}",
    "1000 characters": "x" * 1000,
    "1000 characters without a place to fold": "あ" * 1000,
    "a path": "../../x",
    "nothing": "",
    "blanks": "   ",
}
_KEPT = ("verdict", "scope", "of", "label", "on")
"""Texts by which parts of a record refer to each other."""


def _said(text: str) -> Document:
    """The record with ``text`` in the place, or at the end, of each of its texts."""
    made: Document = document()
    for path in list(places(made)):
        value = made
        for key in path:
            value = value[key]
        if isinstance(value, str) and path[-1] not in _KEPT and "manifest" not in path:
            made = put(made, path, _changed(path, value, text))
    made = put(made, ("environment",), {text: text, "gpu": text})
    made = put(made, ("scenario",), {"name": text, text: [text]})
    for number, row in enumerate(made["rows"]):
        row["manifest"] = {text: {text: text}}
        row["info"]["notes"] = [text]
        # The second row did not run: its reason is what the tables say of it.
        row["reason"] = text if number else ""
    made["classes"] = [f"{text[:900]}{number}" for number in range(3)]
    made["pictures"] = [{"image": text, "shows": text, "file": text}]
    return made


def _changed(path: tuple[Any, ...], value: str, text: str) -> str:
    if path[-1] == "sha256":
        return value
    if path[-1] != "name" or path[0] != "rows" or len(path) > 3:
        return text
    return value if path[1] == 0 else f"{text[:900]}-int8"  # rows are told apart by name


class _Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        loads = tag == "img" and not (names.get("src") or "").startswith("data:image/")
        if tag in ("script", "iframe", "object", "base", "link") or loads:
            self.wrong.append(tag)
        self.wrong += [name for name in names if name.startswith("on")]


def _check(folder: Path, _: object) -> str:
    """What of the reports is markup, a formula or a link that the record brought."""
    page, markdown, table = (
        next((folder / "out").glob(f"*.{end}")).read_text() for end in ("html", "md", "csv")
    )
    if wrong := _Elements(page).wrong:
        return f"MARKUP of the record in the page: {wrong[:3]}"
    if found := re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page):
        return f"MARKUP the control character {found[0]!r} in the page"
    if found := re.search(r"(?<!\\)(\]\(|\]:|<)", markdown):
        return f"MARKUP {found[0]!r} in Markdown"
    for cells in csv.reader(io.StringIO(table)):
        for cell in cells:
            if cell.lstrip().startswith(("=", "+", "@", "-")) and not _is_number(cell):
                return f"MARKUP the formula {cell!r} in the CSV"
    return ""


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def cases() -> Iterator[Case]:
    for name, text in TEXTS.items():
        for use in (*USES, BESIDE):
            check = _check if use in (OUTPUT, BESIDE) else None
            said = lambda t=text: _said(t)  # noqa: E731
            yield record_case(f"{name}", said, use, FINE, family=FAMILY, check=check)
