"""Logs for people: one line per event, with Immich's log levels."""

import json
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from copy import copy
from typing import Any, Final, TextIO
from urllib.parse import quote, unquote, urlsplit

from .messages import Language, Translator
from .settings import LogLevel, Settings

LEVELS: Final[dict[LogLevel, int]] = {
    "verbose": logging.DEBUG,
    "debug": logging.DEBUG,
    "log": logging.INFO,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
REQUEST: Final[ContextVar[str]] = ContextVar("request", default="")
"""The number of the request that is worked on, "" where none is."""

_COLOURS: Final = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}


LEAST_SECRET: Final = 6
"""Characters of a secret that is looked for in texts: a shorter one is part of many words."""


class Redaction:
    """Blanks the settings' secrets in a text for people.

    What is written here names none; libraries and other servers may, in what they say of a failure.
    """

    def __init__(self, settings: Settings) -> None:
        secrets = [secret for secret in _secrets(settings) if len(secret) >= LEAST_SECRET]
        spelt = {*secrets, *(quote(secret, safe="") for secret in secrets), *map(unquote, secrets)}
        found = sorted(spelt, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, found))) if found else None

    def __call__(self, text: str) -> str:
        """The text with ``***`` for each secret."""
        return text if self._pattern is None else self._pattern.sub("***", text)

    def document(self, value: Any) -> Any:
        """A JSON document with the same done to every text in it."""
        match value:
            case str():
                return self(value)
            case dict():
                return {key: self.document(item) for key, item in value.items()}
            case list() | tuple():
                return [self.document(item) for item in value]
        return value


def _secrets(settings: Settings) -> Iterator[str]:
    yield from (settings.api_key, settings.mt_photos_key, settings.hf_token)
    for url in (settings.upstream, settings.hf_endpoint, *settings.model_source.bases.values(), *settings.proxies):
        account, at, _ = url.rpartition("@")
        user, _, password = account.rpartition("://")[2].partition(":")
        yield from (password or user,) if at else ()
        yield from re.findall("/key/([^/]+)", url)


class LineFormatter(logging.Formatter):
    """``[2026-11-22 18:20:01] INFO     message``, coloured by level, in the reader's language."""

    def __init__(
        self, *, colour: bool, translator: Translator | None = None, redact: Callable[[str], str] = str
    ) -> None:
        super().__init__("[%(asctime)s] %(levelname)-8s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
        self._colour = colour
        self._translator = translator or Translator()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it where there is one."""
        translated = copy(record)
        translated.msg, translated.args = self._translator.log(record), ()
        line = self._redact(super().format(translated))
        if record.levelno == logging.DEBUG and REQUEST.get():
            line = f"{line} [{REQUEST.get()}]"
        colour = _COLOURS.get(record.levelno, "") if self._colour else ""
        return f"{colour}{line}\x1b[0m" if colour else line


class JsonFormatter(logging.Formatter):
    """``{"time": …, "level": …, "logger": …, "message": …}``, with ``request`` and ``traceback`` where there is one.

    For machines, so always English.
    """

    def __init__(self, *, redact: Callable[[str], str] = str) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        milliseconds = f"{record.msecs:03.0f}"
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{milliseconds}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redact(record.getMessage()),
        }
        if REQUEST.get():
            entry["request"] = REQUEST.get()
        if record.exc_info:
            entry["traceback"] = self._redact(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


def set_up(
    level: LogLevel,
    *,
    no_color: bool,
    as_json: bool = False,
    language: Language = "en",
    redact: Callable[[str], str] = str,
    stream: TextIO = sys.stderr,
) -> None:
    """Send the log of the whole process to `stream`.

    Args:
        no_color: no colours, although `stream` is a terminal.
        as_json: one JSON object per line, in English.
        language: of the lines for people.
        redact: what becomes of a line that may hold a secret.
    """
    handler = logging.StreamHandler(stream)
    colour = not no_color and stream.isatty()
    lines = LineFormatter(colour=colour, translator=Translator(language), redact=redact)
    handler.setFormatter(JsonFormatter(redact=redact) if as_json else lines)
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    for name in ("uvicorn", "httpx", "httpx2", "httpcore", "httpcore2", "PIL", "filelock"):
        logging.getLogger(name).setLevel(max(logging.WARNING, LEVELS[level]))
    # Pillow warns about big and odd images; limits and errors are ours to judge.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def redact_url(url: str) -> str:
    """Scheme, host and port of an address: its user, password and path may hold what no log should."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
