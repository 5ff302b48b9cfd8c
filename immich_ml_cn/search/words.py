"""Which characters are words where they stand: 鸡 is one in 香辣鸡腿 only where the dictionary says so.

For the order of what single characters find; nothing is found or lost by it. Dictionaries cut text wrongly often enough
that searching by their words loses a quarter of it and more, see `benchmarks/segmentation.py`.
"""

import threading
from collections.abc import Callable, Iterable
from typing import TypeAlias

Cut: TypeAlias = Callable[[str], Iterable[str]]


class Words:
    """Jieba's dictionary, loaded on a thread of its own when it is first asked for: that takes a second."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._cut: Cut | None = None

    def start(self) -> None:
        """Begin to load it, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._load, name="search-words", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until it is loaded."""
        self.start()
        if self._thread is not None:
            self._thread.join()

    @property
    def is_ready(self) -> bool:
        """Whether it is loaded."""
        return self._cut is not None

    def has(self, text: str, word: str) -> bool:
        """Whether a word stands in a text and is no part of a longer one; False before the dictionary is loaded."""
        cut = self._cut
        return cut is not None and any(word in cut(line) for line in text.split("\n") if word in line)

    def _load(self) -> None:
        import rjieba

        rjieba.cut("发票")
        self._cut = rjieba.cut
