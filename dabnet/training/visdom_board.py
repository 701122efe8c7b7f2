"""Curves and predictions on a visdom server, with the calls of TensorBoard's ``SummaryWriter``.

The package is https://github.com/fossasia/visdom: ``python -m visdom.server`` listens at
http://localhost:8097, which is where its client looks.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dabnet.errors import BackendUnavailable, MissingPackage

SERVER = "http://localhost:8097"
SECONDS_BETWEEN = 2.0
"""Points are collected for this time, so that a run does not wait for the server in each step."""


class VisdomBoard:
    """An environment of the server, with one window per tag.

    Args:
        environment: its name.
        fresh: whether what an earlier run left there is removed.

    Raises:
        BackendUnavailable: the package is missing, or no server answers.
    """

    def __init__(self, environment: str, fresh: bool) -> None:
        try:
            from visdom import Visdom  # type: ignore[import-not-found]
        except ImportError as error:
            raise MissingPackage("visdom", "visdom") from error
        try:
            # Without the socket for messages of the server, whose failure is only logged.
            self._client: Any = Visdom(
                env=environment, raise_exceptions=True, use_incoming_socket=False
            )
            answers = self._client.check_connection()
        except OSError:  # ConnectionError
            answers = False
        if not answers:
            raise BackendUnavailable(
                f"--visdom: no server at {SERVER}",
                "a visdom server",
                "start one with: python -m visdom.server, or leave --visdom out",
            )
        if fresh:
            self._client.close()  # all windows of the environment
        self._points: dict[str, list[tuple[int, float]]] = {}
        self._sent_at = time.monotonic()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self._points.setdefault(tag, []).append((step, value))
        if time.monotonic() - self._sent_at >= SECONDS_BETWEEN:
            self.flush()

    def add_image(
        self, tag: str, image: NDArray[np.uint8], step: int, dataformats: str = "HWC"
    ) -> None:
        """Show uint8 (H, W, 3)."""
        options = {"title": tag, "caption": f"iteration {step}"}
        self._send("image", np.moveaxis(image, -1, 0), win=tag, opts=options)

    def flush(self) -> None:
        for tag, points in self._points.items():
            steps, values = (np.array(column) for column in zip(*points, strict=True))
            options = {"title": tag, "xlabel": "iteration"}
            self._send("line", values, steps, win=tag, update="append", opts=options)
        self._points, self._sent_at = {}, time.monotonic()

    def close(self) -> None:
        self.flush()

    def _send(self, kind: str, *arguments: Any, **options: Any) -> None:
        """A server that ends later ends its curves, and not the run."""
        if self._client is None:
            return
        try:
            getattr(self._client, kind)(*arguments, **options)
        except OSError:
            self._client = None
