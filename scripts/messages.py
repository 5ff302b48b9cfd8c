#!/usr/bin/env python3
"""Bring the catalogues of immich_ml_cn/messages/locale up to date with the messages in the code.

    scripts/messages.py            adds what is new, drops what is gone; names what has no translation yet
    scripts/messages.py --check    changes nothing; fails where the above would change something or name something

A message is the first argument of `tr`, and of a logger's info, warning, error, exception and critical.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polib

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "immich_ml_cn"
LOCALES = ("zh_CN",)
LOGGERS = {"logger", "_logger"}
HEADER = "The messages of immich-ml-cn. scripts/messages.py writes what is new; translate each empty msgstr."
LEVELS = {"info", "warning", "error", "exception", "critical"}


class Found(NamedTuple):
    """A message and where it stands."""

    text: str
    file: str
    line: int


class NotLiteral(Exception):
    """A message that is put together where it is said, so that nobody can translate it."""


def messages() -> list[Found]:
    """Every message of the package, by file and line.

    Raises:
        NotLiteral: the message is no literal.
    """
    files = sorted(PACKAGE.rglob("*.py"))
    return [found for file in files for found in messages_in(file.read_text("utf-8"), str(file.relative_to(ROOT)))]


def messages_in(source: str, file: str = "") -> Iterator[Found]:
    """The messages of a module."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        text, literal = _said(node)
        if text is None and not literal:
            continue
        if text is None:
            raise NotLiteral(f'{file}:{node.lineno}: write tr("… {{name}} …", name=…), or logger.info("… %s …", …)')
        if any(character.isalpha() for character in _without_fields(text)):
            yield Found(text, file, node.lineno)


def _said(call: ast.Call) -> tuple[str | None, bool]:
    """The literal that a call says to people, None where it is none; and whether it should be one."""
    first = call.args[0]
    text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
    match call.func:
        case ast.Name(id="tr"):
            return text, True
        case ast.Attribute(value=ast.Name(id=name) | ast.Attribute(attr=name), attr=level) if (
            name in LOGGERS and level in LEVELS
        ):
            return text, isinstance(first, ast.JoinedStr | ast.BinOp)
    return None, False


def _without_fields(text: str) -> str:
    """A template without what is filled in."""
    return re.sub(r"\{[^{}]*\}|%[-+ #0-9.]*[a-z]", "", text)


def updated(catalogue: polib.POFile) -> polib.POFile:
    """A catalogue with the messages of the code, and the translations that it had for them, in alphabetical order."""
    fresh = polib.POFile(wrapwidth=0)
    fresh.header = HEADER
    fresh.metadata = catalogue.metadata
    known = {entry.msgid: entry.msgstr for entry in catalogue if entry.msgstr}
    for text in sorted({found.text for found in messages()}):
        fresh.append(polib.POEntry(msgid=text, msgstr=known.get(text, "")))
    return fresh


def po_file(locale: str) -> Path:
    """Where a catalogue is."""
    return PACKAGE / "messages" / "locale" / f"{locale}.po"


def read(locale: str) -> polib.POFile:
    """A catalogue as it is; a message that is in it twice after a merge counts once."""
    return polib.pofile(str(po_file(locale)), wrapwidth=0)


def bring_up_to_date(locale: str, *, write: bool) -> bool:
    """Whether a catalogue was complete and up to date, after saying what it lacks."""
    file = po_file(locale)
    catalogue = updated(read(locale))
    content = f"{catalogue}\n"
    good = True
    if write:
        file.write_text(content, encoding="utf-8")
    elif file.read_text(encoding="utf-8") != content:
        print(f"{file.relative_to(ROOT)} is not up to date: run scripts/messages.py")
        good = False
    for entry in catalogue.untranslated_entries():
        print(f"{file.relative_to(ROOT)} has no translation of: {entry.msgid}")
        good = False
    return good


def main() -> int:
    """Every catalogue; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    try:
        complete = [bring_up_to_date(locale, write=not check) for locale in LOCALES]
    except NotLiteral as error:
        print(error)
        return 1
    return int(not all(complete))


if __name__ == "__main__":
    sys.exit(main())
