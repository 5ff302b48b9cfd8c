"""What the text of a variable may be, and the value that it stands for.

Each function raises ValueError with what is allowed, as the end of a sentence: "it must be …".
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from .messages import Language, language_for, tr

TASKS: Final = ("clip", "facial-recognition", "ocr")
"""Tasks that can be left to another server, or put on a GPU."""

OpenVinoPrecision = Literal["auto", "f32", "bf16", "f16"]

PILLOWS_LIMIT: Final = 178_956_970
"""Pixels above which Pillow takes an image for a decompression bomb, whatever we set."""


def text(value: str) -> str:
    """Any text, as it is."""
    return value


def integer(value: str) -> int:
    """A whole number."""
    try:
        return int(value)
    except ValueError:
        raise ValueError(tr("a whole number")) from None


def positive(value: str) -> int:
    """A whole number of at least 1."""
    number = integer(value)
    if number < 1:
        raise ValueError(tr("a whole number of at least 1"))
    return number


def pixels(value: str) -> int:
    """A number of pixels that Pillow opens."""
    number = positive(value)
    if number > PILLOWS_LIMIT:
        raise ValueError(
            tr("a number of pixels up to {limit}, above which Pillow refuses an image", limit=PILLOWS_LIMIT)
        )
    return number


def port(value: str) -> int:
    """A port number."""
    number = integer(value)
    if not 0 <= number <= 65535:
        raise ValueError(tr("a port number from 0 to 65535"))
    return number


def seconds(value: str) -> float:
    """Seconds; 0 and less have a meaning of their own."""
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise ValueError(tr("a number of seconds"))
    return number


def waiting_time(value: str) -> float:
    """Seconds above 0."""
    number = seconds(value)
    if number <= 0:
        raise ValueError(tr("a number of seconds above 0"))
    return number


def score(value: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not 0 <= number <= 1:
        raise ValueError(tr("a number from 0 to 1"))
    return number


def flag(value: str) -> bool:
    """A yes or no."""
    word = value.strip().lower()
    if word in {"1", "true", "yes", "on", "t", "y"}:
        return True
    if word in {"0", "false", "no", "off", "f", "n"}:
        return False
    raise ValueError(tr("true or false"))


def presence(value: str) -> bool:
    """Yes, unless it says no: for variables that count by being set."""
    return value.strip().lower() not in {"0", "false"}


def names(value: str) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(name.strip() for name in value.split(",") if name.strip())


def device_ids(value: str) -> tuple[int, ...]:
    """Numbers of devices, separated by commas."""
    numbers = names(value)
    if not numbers or not all(number.isdecimal() for number in numbers):
        raise ValueError(tr("device numbers separated by commas, such as 0 or 0,1"))
    return tuple(int(number) for number in numbers)


def task_devices(value: str) -> Mapping[str, int]:
    """Task → number of a device."""
    pairs = [word.partition("=") for word in names(value)]
    if not all(task.strip() in TASKS and number.strip().isdecimal() for task, _, number in pairs):
        raise ValueError(tr("pairs task=number separated by commas; the tasks are {tasks}", tasks=", ".join(TASKS)))
    return MappingProxyType({task.strip(): int(number) for task, _, number in pairs})


def folder(value: str) -> Path:
    """A folder; ``~`` is the home."""
    return Path(value).expanduser()


def host(value: str) -> str:
    """An address to listen on, without the brackets of IPv6."""
    return value.strip().removeprefix("[").removesuffix("]")


def root_path(value: str) -> str:
    """A path before every route: ``/ml``, or nothing."""
    path = value.strip().strip("/")
    return f"/{path}" if path else ""


def revision(value: str) -> str:
    """The name of a branch or tag."""
    name = value.strip()
    if not name or name in {".", ".."} or any(character in name for character in "/\\\0"):
        raise ValueError(tr("the name of a branch or tag, without slashes"))
    return name


def word(value: str) -> str:
    """A word, without space around it."""
    return value.strip()


def device(value: str) -> str:
    """MT Photos' name of a device, without a number."""
    return value.strip().lower().partition(":")[0]


def address(value: str) -> str:
    """An address of HTTP, without a slash at its end."""
    address = value.strip().rstrip("/")
    try:
        parts = urlsplit(address)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise ValueError(tr("an address such as http://host:3003"))
    return address


def tasks(value: str) -> tuple[str, ...]:
    """Tasks separated by commas."""
    chosen = names(value)
    if not set(chosen) <= set(TASKS):
        raise ValueError(tr("a comma list of {choices}", choices=", ".join(TASKS)))
    return chosen


def openvino_precision(value: str) -> str:
    """OpenVINO's name of a precision, or Immich's."""
    word = value.strip().lower()
    precision = {"fp32": "f32", "fp16": "f16"}.get(word, word)
    if precision not in get_args(OpenVinoPrecision):
        raise ValueError(tr("one of FP32, FP16, BF16, auto"))
    return precision


def language(value: str) -> Language:
    """A language that there are messages in, by its code or a locale of it."""
    found = language_for(value)
    if found is None:
        raise ValueError(tr("en or zh"))
    return found


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """One of a few words."""

    def parse(value: str) -> str:
        word = value.strip().lower()
        if word not in choices:
            raise ValueError(tr("one of {choices}", choices=", ".join(choices)))
        return word

    return parse
