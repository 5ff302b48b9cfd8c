"""Logs for people: one line per event, with Immich's log levels."""

import json
import logging
import sys
import time
import warnings
from contextvars import ContextVar
from copy import copy
from typing import Final, TextIO
from urllib.parse import urlsplit

from .messages import Language, Translator
from .settings import LogLevel

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


class LineFormatter(logging.Formatter):
    """``[2026-11-22 18:20:01] INFO     message``, coloured by level, in the reader's language."""

    def __init__(self, *, colour: bool, translator: Translator | None = None) -> None:
        super().__init__("[%(asctime)s] %(levelname)-8s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
        self._colour = colour
        self._translator = translator or Translator()

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it where there is one."""
        translated = copy(record)
        translated.msg, translated.args = self._translator.log(record), ()
        line = super().format(translated)
        if record.levelno == logging.DEBUG and REQUEST.get():
            line = f"{line} [{REQUEST.get()}]"
        colour = _COLOURS.get(record.levelno, "") if self._colour else ""
        return f"{colour}{line}\x1b[0m" if colour else line


class JsonFormatter(logging.Formatter):
    """``{"time": …, "level": …, "logger": …, "message": …}``, with ``request`` and ``traceback`` where there is one.

    For machines, so always English.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        milliseconds = f"{record.msecs:03.0f}"
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{milliseconds}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if REQUEST.get():
            entry["request"] = REQUEST.get()
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up(
    level: LogLevel,
    *,
    no_color: bool,
    as_json: bool = False,
    language: Language = "en",
    stream: TextIO = sys.stderr,
) -> None:
    """Send the log of the whole process to `stream`.

    Args:
        no_color: no colours, although `stream` is a terminal.
        as_json: one JSON object per line, in English.
        language: of the lines for people.
    """
    handler = logging.StreamHandler(stream)
    colour = not no_color and stream.isatty()
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter(colour=colour, translator=Translator(language)))
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    for name in ("uvicorn", "httpx", "httpx2", "httpcore", "httpcore2", "PIL", "filelock"):
        logging.getLogger(name).setLevel(max(logging.WARNING, LEVELS[level]))
    # Pillow warns about big and odd images; limits and errors are ours to judge.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def redact_url(url: str) -> str:
    """Scheme, host and port of an address: its user, password and path may hold what no log should."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
