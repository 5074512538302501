"""What a person sends, on its way from the keys to the controller."""

import threading
from collections import deque


class Submissions:
    """A queue with an end; the controller waits at it, the keys fill it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[str] = deque()
        self._taken = False  # one text is out with the controller
        self._ended = self._closed = False

    def send(self, text: str) -> None:
        """Queue `text`."""
        with self._changed:
            self._queue.append(text)
            self._changed.notify_all()

    def take_back(self) -> str | None:
        """The text that was queued last, out of the queue again."""
        with self._changed:
            return self._queue.pop() if self._queue else None

    def next(self) -> str | None:
        """Wait for the next text; None at the end."""
        with self._changed:
            self._taken = False
            while not self._queue and not self._closed:
                self._changed.wait()
            if self._ended or not self._queue:
                self._ended = True
                return None
            self._taken = True
            return self._queue.popleft()

    def close(self) -> None:
        """Nothing follows what is queued."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing follows, whatever is queued."""
        with self._changed:
            self._ended = self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Nothing can be sent any more."""
        return self._closed

    @property
    def ended(self) -> bool:
        """The end was told, or will be next."""
        return self._ended

    @property
    def pending(self) -> bool:
        """Something was sent that the controller did not take."""
        return bool(self._queue)

    @property
    def busy(self) -> bool:
        """The controller works at a text."""
        return self._taken

    def untaken(self) -> list[str]:
        """What was sent and the controller did not take."""
        with self._changed:
            return list(self._queue)

    def waiting(self) -> list[str]:
        """What was sent ahead; a text that an idle controller is about to take is not."""
        with self._changed:
            return list(self._queue) if self._taken else []
