"""The text of photos in SQLite, found by full-text search."""

import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Final, Self

from .expressions import expression, misread_expression, misread_like, misread_pattern, pattern
from .query import Query, Term
from .tokens import tokens
from .words import Words

VERSION: Final = 1
"""Of the file's form and of how its text is normalised; another one is begun anew."""

CANDIDATES: Final = 5000
"""Texts that one look-up weighs at most, the most relevant; of those with something misread, the newest."""

MISREAD_WORDS: Final = 50
BUSY_S: Final = 10.0
"""Seconds to wait for another process that uses the file."""

_SCHEMA: Final = f"""
CREATE TABLE photos (id INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE, text TEXT NOT NULL);
CREATE VIRTUAL TABLE tokens USING fts5 (text, content = '', tokenize = 'ascii');
CREATE VIRTUAL TABLE words USING fts5vocab (tokens, 'row');
PRAGMA user_version = {VERSION};
"""


class Tier(IntEnum):
    """How well a text fits: the worst of what was looked for."""

    EXACT = 0
    ACROSS_LINES = 1
    MISREAD = 2


@dataclass(frozen=True, slots=True)
class Match:
    """A photo whose text fits.

    Attributes:
        digest: of the picture's bytes.
        text: its lines, normalised.
        score: BM25, the higher the better; comparable within a tier.
        age: the higher the newer.
        is_word: whether the single characters that were looked for are words there, as far as that is known.
    """

    digest: bytes
    text: str
    tier: Tier
    score: float
    age: int
    is_word: bool = False

    @property
    def order(self) -> tuple[int, bool, float, int]:
        """The best first: by tier, then words before parts of words, then by score, then the newer."""
        return self.tier, not self.is_word, -round(self.score, 2), -self.age


class OtherVersion(sqlite3.DatabaseError):
    """The file is of another version of this program."""


class Texts:
    """The file's texts; for one thread."""

    def __init__(self, connection: sqlite3.Connection, words: Words | None = None) -> None:
        self._connection = connection
        self._words = words

    @classmethod
    def create(cls, path: Path) -> Self:
        """Open the file for writing; make it, readable by its owner alone, where there is none.

        Raises:
            sqlite3.Error: it cannot be used.
            OSError: it cannot be made.
        """
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        try:
            # Without a write-ahead log: replicas may share the folder over a network, where its shared memory is none.
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("PRAGMA synchronous = FULL")
            version = _version(connection)
            if version == 0:
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            elif version != VERSION:
                raise OtherVersion(f"its version is {version} and not {VERSION}")
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    @classmethod
    def open(cls, path: Path, words: Words | None = None) -> Self | None:
        """Open the file for reading; None where there is none.

        Args:
            words: a dictionary for the order of what single characters find.

        Raises:
            sqlite3.Error: it cannot be used.
        """
        if not path.exists():
            return None
        # Not read-only: what a killed writer left half done is undone by whoever opens the file next.
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S)
        try:
            if _version(connection) != VERSION:
                connection.close()
                return None
        except BaseException:
            connection.close()
            raise
        return cls(connection, words)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def count(self) -> int:
        """Photos with text."""
        count: int = self._connection.execute("SELECT count(*) FROM photos").fetchone()[0]
        return count

    def write(self, entries: Iterable[tuple[bytes, str]], limit: int) -> None:
        """Take in photos, digest and normalised text, in one transaction.

        One that is there already is renewed; without text it goes. Above `limit`, what was seen longest ago goes.
        """
        with self._transaction():
            for digest, text in entries:
                self._remove("digest = ?", digest)
                if text:
                    self._add(digest, text)
            surplus = self.count() - limit
            if surplus > 0:
                self._remove("id IN (SELECT id FROM photos ORDER BY id LIMIT ?)", surplus)

    def clear(self) -> None:
        """Forget every text."""
        with self._transaction():
            self._connection.execute("DELETE FROM photos")
            self._connection.execute("INSERT INTO tokens (tokens) VALUES ('delete-all')")
        self._connection.execute("VACUUM")

    def match(self, query: Query, *, misread: bool = True) -> list[Match]:
        """The photos that have what the query asks for, the best first.

        Args:
            misread: those with one wrong character, too, after all others.
        """
        if not query.terms:
            return []
        wanted = " AND ".join(map(expression, query.terms))
        found = self._look_up(wanted, query, "rank", _tier_of(query.terms))
        if misread:
            known = {match.age for match in found}
            found += (match for match in self._misread(query) if match.age not in known)
        return sorted(self._with_words(query, found), key=lambda match: match.order)

    def _with_words(self, query: Query, found: list[Match]) -> list[Match]:
        """The matches, told apart by whether single characters are words there."""
        characters = [term.runs[0].text for term in query.terms if term.is_single_ideograph]
        if not characters or not found or self._words is None:
            return found
        texts = [match.text for match in found]
        alone = zip(*(self._words.stand_alone(character, texts) for character in characters), strict=True)
        return [replace(match, is_word=all(which)) for match, which in zip(found, alone, strict=True)]

    def _misread(self, query: Query) -> Iterator[Match]:
        words = {term: self._like(term) for term in query.terms}
        alternatives = {term: misread_expression(term, words[term]) for term in query.terms}
        if not any(alternatives.values()):
            return
        wanted = " AND ".join(
            f"({expression(term)} OR {other})" if other else expression(term) for term, other in alternatives.items()
        )

        @cache  # most searches find no such text, and long patterns take long to compile
        def tests() -> list[tuple[re.Pattern[str], re.Pattern[str] | None]]:
            return [(pattern(term, across_lines=True), misread_pattern(term, words[term])) for term in query.terms]

        def tier(text: str) -> Tier | None:
            fits = all(test.search(text) or (other is not None and other.search(text)) for test, other in tests())
            return Tier.MISREAD if fits else None

        yield from self._look_up(wanted, query, "rowid DESC", tier)

    def _look_up(self, wanted: str, query: Query, order: str, tier_of: Callable[[str], Tier | None]) -> list[Match]:
        unwanted = "".join(f" NOT {expression(term)}" for term in query.excluded)
        rows = self._connection.execute(
            "SELECT photos.id, digest, photos.text, -found.rank FROM "  # noqa: S608 - of ours; what was typed is a parameter
            f"(SELECT rowid, rank FROM tokens WHERE tokens MATCH ? ORDER BY {order} LIMIT ?) AS found "
            "JOIN photos ON photos.id = found.rowid",
            (f"({wanted}){unwanted}", CANDIDATES),
        )
        found = []
        for age, digest, text, score in rows:
            tier = tier_of(text)
            if tier is not None:
                found.append(Match(digest, text, tier, score, age))
        return found

    def _like(self, term: Term) -> list[str]:
        """Words of the index that differ from a term by one letter."""
        patterns = misread_like(term)
        if not patterns:
            return []
        found = self._connection.execute(
            "SELECT term FROM words WHERE term >= 'a' AND term < '\u2e80' AND length(term) = ? "  # noqa: S608
            f"AND ({' OR '.join(['term LIKE ?'] * len(patterns))}) ORDER BY doc DESC LIMIT ?",
            (len(term.text), *patterns, MISREAD_WORDS),
        )
        return [word for (word,) in found if word != term.text]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _add(self, digest: bytes, text: str) -> None:
        row = self._connection.execute("INSERT INTO photos (digest, text) VALUES (?, ?)", (digest, text)).lastrowid
        self._connection.execute("INSERT INTO tokens (rowid, text) VALUES (?, ?)", (row, _joined(text)))

    def _remove(self, condition: str, value: bytes | int) -> None:
        """The index has no copy of the text: what is removed from it has to be said again."""
        rows = self._connection.execute(f"SELECT id, text FROM photos WHERE {condition}", (value,)).fetchall()  # noqa: S608
        for row, text in rows:
            self._connection.execute(
                "INSERT INTO tokens (tokens, rowid, text) VALUES ('delete', ?, ?)", (row, _joined(text))
            )
        self._connection.execute(f"DELETE FROM photos WHERE {condition}", (value,))  # noqa: S608


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _joined(text: str) -> str:
    return " ".join(tokens(text))


def _tier_of(terms: Sequence[Term]) -> Callable[[str], Tier | None]:
    """Tells how well a text fits what it was found by; None where it does not after all."""
    levels: list[tuple[Tier, list[re.Pattern[str]]]] = [
        (Tier.EXACT, [pattern(term, across_lines=False) for term in terms]),
        (Tier.ACROSS_LINES, [pattern(term, across_lines=True) for term in terms]),
    ]

    def tier_of(text: str) -> Tier | None:
        return next((tier for tier, tests in levels if all(test.search(text) for test in tests)), None)

    return tier_of
