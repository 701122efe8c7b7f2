"""A hook of mkdocs: files outside docs/ that a page links to, such as ../weights/README.md.

On GitHub such a link works as it is. The site gets the file at its path in the repository, and the
link is rewritten. The same holds for the links of a page that came in this way.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")
_CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]*`)", re.S | re.M)


def on_files(files: Any, config: Any) -> Any:
    """Add what pages of docs/ link to outside of it, and what these files link to in turn."""
    from mkdocs.structure.files import File

    root = Path(config["config_file_path"]).parent
    waiting = [file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        known = files.get_file_from_path(page)
        for target in _targets(known.content_string, _in_repository(page, root)):
            uri = _in_site(target)
            if files.get_file_from_path(uri) is None and (root / target).is_file():
                source = str(root / target)
                files.append(File.generated(config, uri, abs_src_path=source))
                waiting += [uri] if uri.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Return the page with its links as the site has them."""
    here = page.file.src_uri
    root = Path(config["config_file_path"]).parent

    def rewritten(found: re.Match[str]) -> str:
        opened, path, anchor, closed = found.groups()
        target = _in_site(_joined(_in_repository(here, root), path))
        link = posixpath.relpath(target, posixpath.dirname(here) or ".")
        return f"{opened}{link}{anchor or ''}{closed}"

    parts = _CODE.split(markdown)
    return "".join(p if i % 2 else _LINK.sub(rewritten, p) for i, p in enumerate(parts))


def _targets(markdown: str, page: str) -> list[str]:
    text = _CODE.sub("", markdown)
    return [_joined(page, found[2]) for found in _LINK.finditer(text)]


def _joined(page: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), path))


def _in_repository(uri: str, root: Path) -> str:
    """A path of the site → that of the repository."""
    return f"docs/{uri}" if (root / "docs" / uri).exists() else uri


def _in_site(path: str) -> str:
    """A path of the repository → that of the site."""
    return path.removeprefix("docs/")
