#!/usr/bin/env python3
"""Bring the catalogues of immich_ml_cn/messages/locale up to date with the messages in the code.

    scripts/messages.py            adds what is new, drops what is gone, compiles; names what has no translation yet
    scripts/messages.py --check    changes nothing; fails where the above would change something or name something

A message is the first argument of `tr`, and of a logger's info, warning, error, exception and critical.
"""

import argparse
import ast
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from babel.messages import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "immich_ml_cn"
LOCALES = ("zh_CN",)
LOGGERS = {"logger", "_logger"}
UNUSED = (b"EMAIL@ADDRESS", b"LL@li.org", b" VERSION", b"Generated-By")
"""Lines of Babel's header that nobody fills in."""
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


def updated(catalogue: Catalog) -> Catalog:
    """A catalogue with the messages of the code, and the translations that it had for them."""
    fresh = Catalog(
        locale=catalogue.locale,
        domain="immich_ml_cn",
        project="immich-ml-cn",
        header_comment="# The messages of immich-ml-cn. Written by scripts/messages.py; translate the empty msgstr.",
        creation_date=catalogue.creation_date,
        revision_date=catalogue.revision_date,
        fuzzy=False,
    )
    for found in messages():
        known = catalogue.get(found.text)
        flags = ["python-format"] if "%" in found.text and known is None else []
        fresh.add(found.text, known.string if known else "", flags=flags)
    return fresh


def as_po(catalogue: Catalog) -> bytes:
    """A catalogue as it is edited."""
    file = io.BytesIO()
    write_po(file, catalogue, width=0, sort_output=True, no_location=True)
    lines = file.getvalue().splitlines(keepends=True)
    return b"".join(line for line in lines if not any(default in line for default in UNUSED))


def as_mo(catalogue: Catalog) -> bytes:
    """A catalogue as it is read by the server."""
    file = io.BytesIO()
    write_mo(file, catalogue)
    return file.getvalue()


def untranslated(catalogue: Catalog) -> list[str]:
    """The messages without a translation."""
    return [str(message.id) for message in catalogue if message.id and not message.string]


def po_file(locale: str) -> Path:
    """Where a catalogue is."""
    return PACKAGE / "messages" / "locale" / locale / "LC_MESSAGES" / "immich_ml_cn.po"


def read(locale: str) -> Catalog:
    """A catalogue as it is."""
    return read_po(io.BytesIO(po_file(locale).read_bytes()), locale=locale, domain="immich_ml_cn")


def bring_up_to_date(locale: str, *, write: bool) -> bool:
    """Whether a catalogue was complete and up to date, after saying what it lacks."""
    file = po_file(locale)
    catalogue = updated(read(locale))
    lacking = untranslated(catalogue)
    good = not lacking
    for target, content in ((file, as_po(catalogue)), (file.with_suffix(".mo"), as_mo(catalogue))):
        if target.is_file() and target.read_bytes() == content:
            continue
        if write:
            target.write_bytes(content)
        else:
            print(f"{target.relative_to(ROOT)} is not up to date: run scripts/messages.py")
            good = False
    for message in lacking:
        print(f"{file.relative_to(ROOT)} has no translation of: {message}")
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
