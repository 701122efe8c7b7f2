"""The window, on a display where there is one."""

from __future__ import annotations

import pytest
from PIL import Image

from dabnet.run.window import open_window


def test_no_window_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    assert open_window("none") is None


@pytest.mark.parametrize("key", ["<q>", "<Escape>"])
def test_a_window_shows_until_its_user_closes_it(key: str) -> None:
    window = open_window("shown")
    if window is None:
        pytest.skip("this machine has no display")
    root = window._root
    window.show(Image.new("RGB", (100 * root.winfo_screenwidth(), 100)))
    assert root.winfo_width() < root.winfo_screenwidth()
    window.show(Image.new("RGB", (40, 30), "red"))
    assert (root.winfo_width(), root.winfo_height()) == (40, 30)
    root.focus_force()
    root.after(100, lambda: root.event_generate(key))
    window.wait()
    window.show(Image.new("RGB", (40, 30)))  # of frames that were on their way
    window.destroy()
