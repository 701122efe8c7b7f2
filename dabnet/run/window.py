"""A window that shows overlays, by tkinter, which most Pythons have."""

from __future__ import annotations

import time
from typing import Any

from PIL import Image

_POLL_S = 0.03
_SHARE = 0.9
"""Of the screen, at most."""


class Window:
    """A window; the thread that opens it must also show in it. ``q``, Escape or its cross close it.

    Attributes:
        closed: whether the user closed it.
    """

    def __init__(self, root: Any, title: str) -> None:
        import tkinter

        self.closed = False
        self._root = root
        root.title(title)
        root.protocol("WM_DELETE_WINDOW", self._close)
        for key in ("q", "<Escape>"):
            root.bind(key, lambda _: self._close())
        self._label = tkinter.Label(root, borderwidth=0)
        self._label.pack()
        self._most = (
            int(_SHARE * root.winfo_screenwidth()),
            int(_SHARE * root.winfo_screenheight()),
        )

    def show(self, picture: Image.Image) -> None:
        """Show a picture, made smaller where the screen is smaller."""
        from PIL import ImageTk

        if self.closed:
            return
        share = min(1.0, *(m / side for m, side in zip(self._most, picture.size, strict=True)))
        if share < 1:
            width, height = (max(1, int(share * side)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        self._shown = ImageTk.PhotoImage(picture, master=self._root)  # tkinter keeps no reference
        self._label.configure(image=self._shown)
        self.poll()

    def poll(self) -> None:
        """Let the window answer to the user."""
        if not self.closed:
            self._root.update()

    def wait(self) -> None:
        """Return when the user has closed it."""
        while not self.closed:
            self.poll()
            time.sleep(_POLL_S)

    def destroy(self) -> None:
        if not self.closed:
            self._close()

    def _close(self) -> None:
        self.closed = True
        self._root.destroy()


def open_window(title: str) -> Window | None:
    """Open a window; None where there is no display, or Python has no tkinter."""
    try:
        import tkinter

        from PIL import ImageTk  # noqa: F401  (a build of Pillow may lack it)
    except ImportError:
        return None
    try:
        return Window(tkinter.Tk(), title)
    except tkinter.TclError:
        return None
