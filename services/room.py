"""How many bytes of requests one replica holds at a time: a few large ones take more memory than many that wait."""

from services import errors

RETRY_S = 0.1
"""When a caller who was refused may come back."""


class Room:
    """Counts the bytes of requests from when they come in until they are answered; for the event loop's thread."""

    def __init__(self, most: int) -> None:
        """Begins empty. most: bytes; a single request always has room."""
        self._most = most
        self._held = 0

    def enter(self, size: int) -> None:
        """Takes a request in; raises Busy when it has no room beside those that are there."""
        if self._held and self._held + size > self._most:
            raise errors.Busy(RETRY_S)
        self._held += size

    def leave(self, size: int) -> None:
        """Lets go of a request that was taken in."""
        self._held -= size
