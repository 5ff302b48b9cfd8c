"""Text as it is compared: what people type and what OCR reads, in one form."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opencc import OpenCC

CJK: Final = (
    r"\u2e80-\u2fd5\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af"
)
"""Characters that are written without spaces between words, as the inside of a regular expression's class: Han, kana,
Hangul."""

_ACCENTS: Final = re.compile("[\u0300-\u036f]")
_GAP: Final = re.compile(rf"(?<=[{CJK}])[^\S\n]+(?=[{CJK}])")
_SPACE: Final = re.compile(r"[^\S\n]+")


class _Simplified(dict[int, str]):
    """Code point → its simplified form, one character at a time: a query and a text meet whatever stands around."""

    def __init__(self) -> None:
        super().__init__()
        from opencc import OpenCC  # only once there is text

        self._converter = OpenCC("t2s")

    def __missing__(self, code: int) -> str:
        character = chr(code)
        simplified: str = self._converter.convert(character) if code > 0x2E7F else character
        self[code] = simplified
        return simplified


@cache
def _simplified() -> _Simplified:
    return _Simplified()


@cache
def _to_traditional() -> "OpenCC":
    from opencc import OpenCC  # see above

    return OpenCC("s2t")


def traditional(text: str) -> str:
    """A text in traditional characters."""
    converted: str = _to_traditional().convert(text)
    return converted


def normalise(text: str) -> str:
    """Compatibility forms (full width, ligatures) replaced, case folded, accents of Latin letters dropped, traditional
    characters simplified, spaces between Chinese characters removed, other white space one space. Lines stay lines.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _ACCENTS.sub("", unicodedata.normalize("NFD", text))
    text = unicodedata.normalize("NFC", text).translate(_simplified())
    return _GAP.sub("", _SPACE.sub(" ", text)).strip()


def normalise_lines(lines: Iterable[str]) -> str:
    """The lines of a photo, in reading order, as one text with a line feed between them; blank ones left out."""
    return "\n".join(filter(None, (normalise(" ".join(line.split())) for line in lines)))
