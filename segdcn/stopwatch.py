"""Counting the seconds that something takes."""

import time


class Stopwatch:
    """Add up the seconds of every `with` block; what a GPU still does when a block ends is not waited for.

    Attributes:
        seconds: So far.
        last: Of the last block.
    """

    def __init__(self) -> None:
        self.seconds = self.last = 0.0
        self._started = 0.0

    def __enter__(self) -> "Stopwatch":
        """Start."""
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and add."""
        self.last = time.perf_counter() - self._started
        self.seconds += self.last
