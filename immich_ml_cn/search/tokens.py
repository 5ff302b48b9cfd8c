"""What the index of texts holds: bigrams of Chinese characters, words and numbers.

A run of Chinese characters becomes its overlapping pairs, and its last character alone: a word of two characters is one
look-up, a longer one a phrase, and a single character is the beginning of some token wherever it stands.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from .normalisation import CJK

LETTER: Final = rf"[^\W\d_{CJK}]"
"""A letter of a script that is written with spaces between words."""

_RUN: Final = re.compile(rf"(?P<cjk>[{CJK}]+)|(?P<word>{LETTER}+)|(?P<number>\d+)")
_BROKEN: Final = re.compile(rf"(?<=[{CJK}])\n(?=[{CJK}])")


class Script(Enum):
    """How a run is written."""

    CJK = "cjk"
    WORD = "word"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Run:
    """Characters of one script that stand together."""

    script: Script
    text: str


def runs(text: str) -> tuple[Run, ...]:
    """The runs of a normalised text, in order."""
    return tuple(Run(Script(match.lastgroup), match[0]) for match in _RUN.finditer(text))


def tokens(text: str) -> Iterator[str]:
    """The tokens of a normalised text of one or more lines; Chinese goes on from line to line."""
    for run in runs(_BROKEN.sub("", text)):
        yield from run_tokens(run)


def run_tokens(run: Run) -> Iterator[str]:
    """The tokens of one run that ends where it does."""
    if run.script is Script.CJK:
        yield from pairs(run.text)
        yield run.text[-1]
    else:
        yield run.text


def pairs(text: str) -> Iterator[str]:
    """The overlapping pairs of characters."""
    return (text[start : start + 2] for start in range(len(text) - 1))
