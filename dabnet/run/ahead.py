"""Work that goes on in a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from threading import Condition, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")

POLL_S = 0.05
"""How long to wait for an item before looking whether the user wants to stop."""
_NAME = "dabnet-ahead"


def is_left() -> bool:
    """Whether such a thread still waits, for a network or a library."""
    return any(thread.name == _NAME for thread in threading.enumerate())


class Ahead(Generic[Item]):
    """Takes items in a thread of its own before they are asked for.

    Args:
        room: how many may wait.
        drops: whether an item that has waited gives way to a newer one.

    Attributes:
        dropped: how many gave way.
    """

    def __init__(self, items: Iterable[Item], room: int = 1, drops: bool = False) -> None:
        self._items, self._room, self._drops = items, room, drops
        self._changed = Condition()
        self._waiting: deque[Item] = deque()
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self.dropped = 0
        self._thread = Thread(target=self._fill, name=_NAME, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        while True:
            try:
                item = self.take()
            except StopIteration:
                return
            if item is not None:
                yield item

    def take(self, seconds: float | None = None) -> Item | None:
        """Return the next item, or None after so many seconds.

        Raises:
            StopIteration: there is none left, or it is closed.
            Exception: that of the items.
        """
        with self._changed:
            self._changed.wait_for(self._has_news, seconds)
            if self._closed:
                raise StopIteration
            if self._waiting:
                self._changed.notify_all()
                return self._waiting.popleft()
            if not self._ended:
                return None
            if self._error is not None:
                raise self._error
            raise StopIteration

    def close(self, seconds: float | None = None) -> None:
        """End the thread after its present item; wait for it, at most so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _has_news(self) -> bool:
        return bool(self._waiting) or self._ended or self._closed

    def _has_room(self) -> bool:
        return len(self._waiting) < self._room or self._closed

    def _fill(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    while self._drops and len(self._waiting) >= self._room:
                        self._waiting.popleft()
                        self.dropped += 1
                    self._changed.wait_for(self._has_room)
                    if self._closed:
                        return
                    self._waiting.append(item)
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
