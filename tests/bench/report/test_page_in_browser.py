"""The page in a browser, where there is one: what fits a desktop and a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.record import REFERENCE, Setting
from bench.report.page.page import html_page
from tests.support.sample_reports import sample_report

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
LONG = "mine_a_rather_long_third_party_backend_name-int8-per-channel-with-equalisation"
ROWS = {
    REFERENCE: (86.0, 0.66, 3.1),
    "pytorch-channels-last": (80.0, 0.66, 3.1),
    "onnxruntime-int8": (88.0, 0.6617, 1.0),
}
# Each width is a frame, as a window cannot be as narrow as a phone.
_MEASURE = """<!DOCTYPE html><body>{frames}<pre></pre><script>
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, tables = [...page.querySelectorAll(".scroll")];
    return [page.documentElement.scrollWidth, ...tables.map(t => t.scrollWidth - t.clientWidth)];
  }});
  document.querySelector("pre").textContent = "found" + "=" + JSON.stringify(found);
}});
</script></body>"""


def measured(page: str, widths: tuple[int, ...], folder: Path) -> list[list[int]]:
    """For each width: that of the whole page, and by how much each table overflows its box."""
    assert BROWSER is not None
    frames = "".join(
        f'<iframe style="width:{width}px;border:0" srcdoc="{html.escape(page)}"></iframe>'
        for width in widths
    )
    (folder / "frames.html").write_text(_MEASURE.format(frames=frames), encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-component-update"
    options += " --disable-background-networking --disable-sync --virtual-time-budget=20000"
    address = (folder / "frames.html").as_uri()
    command = [BROWSER, *options.split(), f"--user-data-dir={folder}", "--dump-dom", address]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"found=(\[\[.*\]\])<", result.stdout)
    if found is None:
        pytest.skip(f"the browser does not run here: {result.stderr[-200:]}")
    values: list[list[int]] = json.loads(found[1])
    return values


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_main_columns_fit_a_desktop_and_the_page_a_phone(tmp_path: Path) -> None:
    (wide, phone) = measured(html_page(sample_report(ROWS)), (1280, 390), tmp_path)
    assert wide[0] <= 1280 and wide[1:3] == [0, 0]
    assert phone[0] <= 390


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_long_names_do_not_widen_the_page(tmp_path: Path) -> None:
    rows = {**ROWS, LONG: (1.2, 0.65, 1.0)}
    page = html_page(sample_report(rows, settings=(Setting((512, 1024)), Setting((8, 8), 4, 2))))
    (phone,) = measured(page, (390,), tmp_path)
    assert phone[0] <= 390
