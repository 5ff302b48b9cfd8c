"""What the server says to people, in their language: English in the code, translated where it is shown.

`tr` marks a sentence and keeps its values, so that whoever shows it (the log, the command line) can translate it with a
`Translator`; everything else, such as HTTP and JSON, sees an ordinary English ``str``. The first argument of a logger's
``info``, ``warning``, ``error`` and ``critical`` needs no mark. ``scripts/messages.py`` writes the catalogues.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

Language = Literal["en", "zh"]

LOCALE_FOLDER: Final = Path(__file__).parent / "locale"
_CATALOGUES: Final[Mapping[Language, str]] = {"zh": "zh_CN.po"}


class Message(str):
    """An English sentence that remembers how it was made.

    Attributes:
        template: the sentence with ``{names}`` in place of its values, the key of the catalogues.
        values: name → value; a value may be a message itself, or an exception that was raised with one.
    """

    template: str
    values: Mapping[str, object]

    def __new__(cls, template: str, values: Mapping[str, object]) -> "Message":
        """Format the English sentence."""
        message = super().__new__(cls, template.format_map(values) if values else template)
        message.template = template
        message.values = values
        return message

    def __reduce__(self) -> tuple[type["Message"], tuple[str, Mapping[str, object]]]:
        """A copy remembers as well."""
        return type(self), (self.template, self.values)


def tr(template: str, /, **values: object) -> Message:
    """A sentence for people: ``tr("cannot write {path}: {reason}", path=path, reason=reason)``.

    The template must be a literal, so that it can be found and translated; without values it is taken as it is.
    """
    return Message(template, values)


def listing(separator: str, messages: Iterable[object]) -> Message:
    """Messages (or exceptions raised with one) joined to one, each of which is translated on its own."""
    parts = {f"part{number}": message for number, message in enumerate(messages)}
    return Message(separator.join(f"{{{name}}}" for name in parts), parts)


def said_by(error: BaseException) -> str:
    """What an exception says, still translatable where it was raised with a message."""
    first = error.args[0] if error.args else None
    return first if isinstance(first, Message) else str(error)


def to_json(message: object) -> object:
    """A message, or one of its values, as another process is told it; see `from_json`."""
    match message:
        case BaseException():
            return to_json(said_by(message))
        case Message(template=template, values=values):
            return {"template": template, "values": {name: to_json(value) for name, value in values.items()}}
        case int() | float() | str():
            return message
    return str(message)


def from_json(described: object) -> Any:
    """What `to_json` was given; values of other types than text and numbers have become text."""
    match described:
        case {"template": str(template), "values": dict(values)}:
            return Message(template, {name: from_json(value) for name, value in values.items()})
    return described


def language_for(locale: str) -> Language | None:
    """The language of a locale's or language's name, such as ``zh_CN.UTF-8`` or ``en``; None for all others."""
    name = locale.strip("\"' ").lower()[:2]
    return next((language for language in get_args(Language) if language == name), None)


class Translator:
    """The messages of one language."""

    def __init__(self, language: Language = "en") -> None:
        """
        Args:
            language: English needs no catalogue; of another, what is not translated stays English.
        """
        self.language: Final = language
        self._translations = _read(LOCALE_FOLDER / _CATALOGUES[language]) if language in _CATALOGUES else {}

    def __repr__(self) -> str:
        return f"<Translator {self.language}>"

    def __call__(self, said: object) -> str:
        """Any value as text, translated if it is a message or an exception that was raised with one."""
        match said:
            case BaseException(args=(Message() as message, *_)):
                return self(message)
            case Message(template=template, values=values):
                return self._formatted(template, values)
        return str(said)

    def log(self, record: logging.LogRecord) -> str:
        """A log record's message; those for debugging stay English."""
        if record.levelno <= logging.DEBUG or not isinstance(record.args, tuple):
            return record.getMessage()
        template = self._translated(record.msg) if type(record.msg) is str else self(record.msg)
        return template % tuple(self._shown(value) for value in record.args) if record.args else template

    def _formatted(self, template: str, values: Mapping[str, object]) -> str:
        translated = self._translated(template)
        if not values:
            return translated
        return translated.format_map({name: self._shown(value) for name, value in values.items()})

    def _translated(self, template: str) -> str:
        return self._translations.get(template, template)

    def _shown(self, value: object) -> object:
        """A value of a template, which may be a number that the template formats."""
        return self(value) if isinstance(value, Message | BaseException) else value


def _read(file: Path) -> Mapping[str, str]:
    """Message → translation, of a gettext catalogue (``.po``)."""
    import polib

    return {entry.msgid: entry.msgstr for entry in polib.pofile(str(file)) if entry.translated()}
