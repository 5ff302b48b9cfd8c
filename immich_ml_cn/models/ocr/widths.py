"""Full-width and half-width forms of a character (Unicode Standard Annex #11): Ａ and A, １ and 1, ｶ and カ.

PP-OCR's dictionaries hold both, and the recogniser cannot always tell which of them is printed: ``编号ＡＢＣ１２３``
comes out as ``编号ＡＢC１２3``, with half the probability for each character. They are one reading here.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Of letters and digits the unusual width, and the usual one.
_WIDTHS: Final = (
    (re.compile("[０-９Ａ-Ｚａ-ｚ]+"), re.compile("[0-9A-Za-z]")),
    (re.compile("[ｦ-ﾟ]+"), re.compile("[ァ-ヺ]")),
)
# Full-width signs between half-width letters or digits, and currency signs before half-width digits.
_INSIDE_A_WORD: Final = re.compile("(?<=[0-9A-Za-z])[＃％＆＋－．／：＝＠＿～](?=[0-9A-Za-z])|[￠￡￥￦](?=[0-9])")
# Katakana's middle dot, as wide as a character, between half-width letters or digits: a number plate's.
_DOT_INSIDE_A_WORD: Final = re.compile("(?<=[0-9A-Za-z])・(?=[0-9A-Za-z])")


def usual_classes(alphabet: Sequence[str]) -> NDArray[np.int64]:
    """Per class of a recogniser the class of its character's usual form, its own if there is no other: int64 (C,)."""
    places = {character: index for index, character in reversed(list(enumerate(alphabet)))}
    usual = [places.get(_usual(character), index) for index, character in enumerate(alphabet)]
    return np.array(usual, np.int64)


def in_one_width(text: str) -> str:
    """A line with all its letters and digits in one width, and its katakana likewise.

    Where the widths are mixed, the usual form is taken; a line that is full-width throughout stays so. So it is for
    the signs inside a word or number (``021－555``, ``12：30``, ``A・81211``) and a currency sign before one. All other
    punctuation stays as it is: ``：`` and ``，`` after an ideograph are full-width by right.
    """
    for unusual, usual in _WIDTHS:
        if usual.search(text):
            text = unusual.sub(_in_usual_form, text)
    return _DOT_INSIDE_A_WORD.sub("·", _INSIDE_A_WORD.sub(_in_usual_form, text))


def _in_usual_form(found: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", found[0])


def _usual(character: str) -> str:
    if len(character) != 1 or unicodedata.east_asian_width(character) not in ("F", "H"):
        return character
    return unicodedata.normalize("NFKC", character)
