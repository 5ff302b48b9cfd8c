"""Where a command answers: standard output, in the reader's language; complaints go to standard error."""

import json
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

from immich_ml_cn.logs import Redaction
from immich_ml_cn.messages import Translator
from immich_ml_cn.settings import Settings


class Console:
    """Prints messages, tables and JSON."""

    def __init__(self, settings: Settings) -> None:
        """
        Args:
            settings: name the language, of everything but JSON, which is English, and the secrets, which are blanked.
        """
        self._translated = Translator(settings.language)
        self._redact = Redaction(settings)

    def say(self, said: object) -> str:
        """A message as it is shown."""
        return self._redact(self._translated(said))

    def print(self, said: object = "") -> None:
        """One line of the answer."""
        print(self.say(said))  # noqa: T201 - the command's answer

    def complain(self, said: object) -> None:
        """Why there is no answer."""
        print(self.say(said), file=sys.stderr)  # noqa: T201 - the command's answer

    def table(self, header: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
        """Lines with columns, as wide as what is in them; Chinese characters are two columns wide."""
        lines = [[self.say(cell) for cell in row] for row in (header, *rows)]
        widths = [max(_width(line[column]) for line in lines) for column in range(len(header))]
        for line in lines:
            cells = (cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True))
            self.print("  ".join(cells).rstrip())

    def json(self, value: Any) -> None:
        """The answer for scripts."""
        self.print(json.dumps(self._redact.document(value), ensure_ascii=False, indent=1))


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
