"""A term as FTS5 looks it up, and as it is then told in a text."""

import re
from collections.abc import Iterable
from typing import Final

from .query import Term
from .tokens import LETTER, Run, Script, pairs, run_tokens

LEAST_MISREAD: Final = {Script.CJK: 3, Script.WORD: 5}
"""Characters from which on one of them may be misread."""

_BETWEEN: Final = {False: r"[^\w\n]*", True: r"[\W_]*"}
"""What may stand between two runs of a term, in a line and across lines."""

_BREAK: Final = {False: "", True: r"\n?"}
"""The same between two Chinese characters."""


def expression(term: Term) -> str:
    """The FTS5 expression that finds every text with the term, in a line or across lines, and few others."""
    *before, last = term.runs
    head = [token for run in before for token in run_tokens(run)]
    return _any(_phrase([*head, *tail], begins=begins) for tail, begins in _tails(last, exact=term.exact))


def misread_expression(term: Term, words: Iterable[str] = ()) -> str | None:
    """The expression that finds the texts with the term but for one wrong character; None where that says nothing.

    Args:
        words: of the index, those that differ from the term, a word, by one letter.
    """
    run = _misreadable(term)
    if run is None:
        return None
    if run.script is Script.WORD:
        alternatives = [_phrase([word]) for word in words]
        return _any(alternatives) if alternatives else None
    return _any(
        " AND ".join(_part(part) for part in (run.text[:place], run.text[place + 1 :]) if part)
        for place in range(len(run.text))
    )


def misread_like(term: Term) -> list[str]:
    """SQL LIKE patterns of the words that differ from the term by one letter; none where it is no such word."""
    run = _misreadable(term)
    if run is None or run.script is not Script.WORD:
        return []
    return [f"{run.text[:place]}_{run.text[place + 1 :]}" for place in range(len(run.text))]


def pattern(term: Term, *, across_lines: bool) -> re.Pattern[str]:
    """The regular expression that tells the term in a normalised text."""
    *before, last = term.runs
    parts = [_run_pattern(run, (run.text,), across_lines=across_lines) for run in before]
    alternatives = forms(last.text) if last.script is Script.WORD and not term.exact else (last.text,)
    parts.append(_run_pattern(last, alternatives, across_lines=across_lines))
    return re.compile(_BETWEEN[across_lines].join(parts))


def misread_pattern(term: Term, words: Iterable[str] = ()) -> re.Pattern[str] | None:
    """The same with one wrong character, in a line or across lines."""
    run = _misreadable(term)
    if run is None:
        return None
    if run.script is Script.WORD:
        found = [_bounded(re.escape(word)) for word in words]
        return re.compile("|".join(found)) if found else None
    wrong = (
        [r"\w" if number == place else re.escape(character) for number, character in enumerate(run.text)]
        for place in range(len(run.text))
    )
    return re.compile("|".join(_BREAK[True].join(characters) for characters in wrong))


def forms(word: str) -> tuple[str, ...]:
    """A word in the singular and in the plural, whichever it is."""
    found = [word, f"{word}s", f"{word}es"]
    if word.endswith("y"):
        found.append(f"{word[:-1]}ies")
    for ending, singular in (("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) >= len(ending) + 3:
            found.append(word[: -len(ending)] + singular)
    return tuple(dict.fromkeys(found))


def _tails(run: Run, *, exact: bool) -> Iterable[tuple[list[str], bool]]:
    """The tokens of a term's last run in each of its forms, and whether the last of them is only a beginning."""
    if run.script is Script.CJK:
        yield (list(pairs(run.text)), False) if len(run.text) > 1 else ([run.text], True)
    elif run.script is Script.WORD and not exact:
        yield from (([form], False) for form in forms(run.text))
    else:
        yield [run.text], False


def _part(text: str) -> str:
    """Chinese characters that stand anywhere in a text."""
    return _phrase([text], begins=True) if len(text) == 1 else _phrase(pairs(text))


def _phrase(tokens: Iterable[str], *, begins: bool = False) -> str:
    return '"' + " ".join(tokens) + '"' + (" *" if begins else "")


def _any(expressions: Iterable[str]) -> str:
    return "(" + " OR ".join(f"({expression})" for expression in expressions) + ")"


def _misreadable(term: Term) -> Run | None:
    """The one run of a term in which a character may be wrong."""
    found = term.runs
    if term.exact or len(found) != 1 or len(found[0].text) < LEAST_MISREAD.get(found[0].script, len(found[0].text) + 1):
        return None
    return found[0]


def _run_pattern(run: Run, words: Iterable[str], *, across_lines: bool) -> str:
    """A run as a regular expression.

    Args:
        words: its forms, where it is a word.
    """
    if run.script is Script.CJK:
        return _BREAK[across_lines].join(map(re.escape, run.text))
    if run.script is Script.NUMBER:
        return rf"(?<!\d){run.text}(?!\d)"
    return _bounded("(?:" + "|".join(map(re.escape, words)) + ")")


def _bounded(word: str) -> str:
    return f"(?<!{LETTER}){word}(?!{LETTER})"
