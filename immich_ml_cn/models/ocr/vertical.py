"""Whether a line is vertical writing, whose characters stand upright one below the other, or a horizontal one that lies
on its side: both have boxes of the same form, and the recogniser reads both.

The difference is in the characters. Laid side by side the way up that they have in vertical writing, they make a line
that can be read; those of a horizontal line lie on their backs then.
"""

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

CHARACTERS: Final = 4
PROBE_CHARACTERS: Final = 2
"""Characters of a first line, by which it is seen whether a second one is to be asked."""

MIN_SCORE: Final = 0.6

_IDEOGRAPHS: Final = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
"""Hiragana and katakana, Chinese characters, Hangul: what is written in columns."""


def may_be_vertical(text: str) -> bool:
    """Whether a line that reads so may be vertical writing: it has at least two ideographs, and they are the most."""
    return len(_IDEOGRAPHS.findall(text)) >= max(2, len(text) / 2)


def stacked(line: NDArray[np.uint8], most: int = CHARACTERS) -> NDArray[np.uint8]:
    """The first characters of a line as vertical writing has them, beside one another.

    Args:
        line: uint8 (h, w, 3), as it is read: the characters of vertical writing lie on their left side.
        most: how many there are at most.

    Returns:
        uint8 (h, n * h, 3) of n square pieces.
    """
    side = line.shape[0]
    count = max(1, min(most, round(line.shape[1] / side)))
    pieces = [np.rot90(line[:, start : start + side], -1) for start in range(0, count * side, side)]
    return np.ascontiguousarray(np.concatenate([_square(piece, side) for piece in pieces], axis=1))


def is_vertical(text: str, stacked_text: str, stacked_score: float, most: int = CHARACTERS) -> bool:
    """Whether a line that reads `text` is vertical writing, by what its first characters read when `stacked`."""
    beginning = text[: CHARACTERS + 2]
    found = sum(character in beginning for character in stacked_text)
    wanted = 1 if len(text) <= 3 or most <= PROBE_CHARACTERS else 2
    return stacked_score >= MIN_SCORE and found >= max(wanted, len(stacked_text) / 2)


def _square(piece: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    missing = side - piece.shape[0]
    return np.pad(piece, ((0, missing), (0, 0), (0, 0)), mode="edge") if missing > 0 else piece
