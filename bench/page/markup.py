"""HTML and SVG from Python: whatever is not markup already is escaped where it is put in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_VOID = frozenset({"meta", "img", "br", "hr", "col"})


class Html(str):
    """Markup. A plain ``str`` is text, so nothing of a record becomes markup by an oversight."""

    __slots__ = ()


def join(*parts: str | None) -> Html:
    """One piece of markup from pieces of markup and text; None is left out."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts if part))


def tag(name: str, /, *children: str | None, **attributes: object) -> Html:
    """Return an element: ``tag("td", "1 < 2", class_="number")``.

    In the name of an attribute ``_`` is ``-``, but for one at the end, which only keeps it apart
    from Python's own words. None and False leave an attribute out, True gives it no value; a float
    gets two decimals, which is as fine as a screen shows.
    """
    text = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{text}>")
    return Html(f"<{name}{text}>{join(*children)}</{name}>")


def _attribute(key: str, value: object) -> str:
    key = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {key}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {key}="{escape(text)}"'


def table(head: str, body: Iterable[str], caption: str, class_: str = "") -> Html:
    """Return a table in a box of its own that scrolls sideways; it can be reached by keyboard."""
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", head),
            tag("tbody", *body),
            class_=class_ or None,
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def headings(names: Sequence[str]) -> Html:
    """One row of column headings."""
    return tag("tr", *(tag("th", name, scope="col") for name in names))


def details(summary: str, *children: str | None, open_: bool = False) -> Html:
    """What is folded away until it is asked for."""
    return tag("details", tag("summary", summary), *children, open=open_)
