"""Logs for people: one line per event, with Immich's log levels."""

import logging
import sys
import warnings
from typing import Final, TextIO

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
_COLOURS: Final = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}


class LineFormatter(logging.Formatter):
    """``[11/22/26 18:20:01] INFO     message``, coloured by level."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__("[%(asctime)s] %(levelname)-8s %(message)s", datefmt="%m/%d/%y %H:%M:%S")
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it where there is one."""
        line = super().format(record)
        colour = _COLOURS.get(record.levelno, "") if self._colour else ""
        return f"{colour}{line}\x1b[0m" if colour else line


def set_up(level: LogLevel, *, no_color: bool, stream: TextIO = sys.stderr) -> None:
    """Send the log of the whole process to `stream`, in colour where that is a terminal and `no_color` is off."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(colour=not no_color and stream.isatty()))
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    for name in ("uvicorn", "httpx", "httpx2", "httpcore", "httpcore2", "PIL", "filelock"):
        logging.getLogger(name).setLevel(max(logging.WARNING, LEVELS[level]))
    # Pillow warns about big and odd images; limits and errors are ours to judge.
    warnings.filterwarnings("ignore", module=r"PIL\.")
