"""What people type: `ocr:发票 -作废 "报销单"`."""

import re
import unicodedata
from dataclasses import dataclass, field
from typing import Final

from .normalisation import normalise, traditional
from .tokens import Run, Script, runs

_PREFIX: Final = re.compile(
    r"(?:^|(?<=\s))(?P<text>ocr|ｏｃｒ|文字)\s?[:：]|(?<=\s)(?P<meaning>clip|ｃｌｉｐ|画面|畫面)\s?[:：]", re.IGNORECASE
)
_QUOTES: Final = str.maketrans("“”„«»「」『』＂", '"' * 10)
_WORD: Final = re.compile(r'(?P<minus>-)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')

MAX_TERMS: Final = 16
MAX_CHARACTERS: Final = 64
"""Of one term; nobody means more, and each makes the look-up longer."""

LEAST: Final = {Script.CJK: 2, Script.WORD: 4, Script.NUMBER: 3}
"""Characters that a word of a query without prefix must have to be looked for in photos."""


@dataclass(frozen=True, slots=True)
class Term:
    """Something that is written in a photo.

    Attributes:
        text: normalised.
        exact: it was quoted: as it stands, no other form, nothing misread.
        typed: as it was typed, in compatibility form C.
    """

    text: str
    exact: bool = False
    typed: str = field(default="", compare=False)

    @property
    def runs(self) -> tuple[Run, ...]:
        """What it consists of."""
        return runs(self.text)

    @property
    def is_single_ideograph(self) -> bool:
        """Whether it is one Chinese, Japanese or Korean character."""
        return [(run.script, len(run.text)) for run in self.runs] == [(Script.CJK, 1)]

    @property
    def written_forms(self) -> tuple[str, ...]:
        """How a photo may have it, for whoever compares letter by letter: as typed, simplified, traditional."""
        return tuple(dict.fromkeys((self.typed or self.text, self.text, traditional(self.text))))


@dataclass(frozen=True, slots=True)
class Query:
    """A search in the text of photos.

    Attributes:
        terms: all of them are to be there.
        excluded: none of them.
        meaning: what the photos should show, as it was typed; they come in the order of it. "" where nothing is said.
        words: the query without prefixes, for CLIP where no text matches.
    """

    terms: tuple[Term, ...]
    excluded: tuple[Term, ...] = ()
    meaning: str = ""
    words: str = ""


def parse(text: str) -> Query | None:
    """The search that a prefix (`ocr:`, `文字:`, in either width and case) asks for; None where there is none.

    What stands before the prefix, and after a `clip:` or `画面:`, is what the photos should show.
    """
    return _query(text) if _has_prefix(text) else None


def for_text(text: str) -> Query:
    """The same search, which needs no prefix where nothing but text is searched for."""
    return _query(text if _has_prefix(text) else f"ocr:{text}")


def plain(text: str) -> Query | None:
    """A query without prefix as a search for exactly its words; None where one of them is too short to be sure of."""
    terms = tuple(Term(term.text, exact=term.exact) for term in _terms(text)[0])
    found = [run for term in terms for run in term.runs]
    if not found or any(len(run.text) < LEAST[run.script] for run in found):
        return None
    return Query(terms, words=text)


def _has_prefix(text: str) -> bool:
    return any(match["text"] for match in _PREFIX.finditer(text))


def _query(text: str) -> Query:
    written, shown = _parts(text)
    terms, excluded = _terms(written)
    words = " ".join([*shown.split(), *(term.text for term in terms)])
    return Query(terms, excluded, shown, words)


def _parts(text: str) -> tuple[str, str]:
    """What is to be written in the photos, and what they should show."""
    parts: dict[str, list[str]] = {"text": [], "meaning": []}
    kind, start = "meaning", 0
    for match in _PREFIX.finditer(text):
        parts[kind].append(text[start : match.start()])
        kind, start = str(match.lastgroup), match.end()
    parts[kind].append(text[start:])
    return " ".join(parts["text"]), " ".join(" ".join(parts["meaning"]).split())


def _terms(text: str) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
    """The terms that are wanted, and those that are not."""
    wanted: list[Term] = []
    excluded: list[Term] = []
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    for match in list(_WORD.finditer(text))[:MAX_TERMS]:
        exact = match["phrase"] is not None
        typed = (match["phrase"] if exact else match["word"])[:MAX_CHARACTERS]
        term = Term(normalise(typed), exact, typed)
        if term.runs:
            (excluded if match["minus"] else wanted).append(term)
    return tuple(dict.fromkeys(wanted)), tuple(dict.fromkeys(excluded))
