"""What the text of a variable may be, and the value that it stands for.

Each function raises ValueError with what is allowed, as the end of a sentence: "it must be …". One that takes a value
for something else than was written returns it as `Doubtful`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from .messages import Language, Message, language_for, tr

T = TypeVar("T")

TASKS: Final = ("clip", "facial-recognition", "ocr")
"""Tasks that can be left to another server, or put on a GPU."""

OpenVinoPrecision = Literal["auto", "f32", "bf16", "f16"]

PILLOWS_LIMIT: Final = 178_956_970
"""Pixels above which Pillow takes an image for a decompression bomb, whatever we set."""


LogLevel = Literal["verbose", "debug", "log", "info", "warn", "error", "critical"]
_OTHER_LEVELS: Final[Mapping[str, LogLevel]] = {"warning": "warn", "fatal": "critical"}
"""Words that only Immich's server or only its machine learning knows; they share one environment."""

_QUOTES: Final = ('""', "''", "“”", "‘’")
_FULL_WIDTH: Final = str.maketrans({"，": ",", "、": ",", "＝": "=", "：": ":"})


@dataclass(frozen=True, slots=True)
class Doubtful(Generic[T]):
    """A value that is used, though it is probably not what was meant; `remark` says so of the variable it is given.

    `dataclasses.MISSING` is the value of a variable that counts as not set.
    """

    value: T
    remark: Callable[[str], Message]


def unquoted(value: str) -> str:
    """A value without white space and quotes around it, which ``docker run --env-file`` and templates leave there."""
    word = value.strip()
    for opening, closing in _QUOTES:
        inner = word[1:-1]
        if len(word) > 1 and word[0] == opening and word[-1] == closing and not {opening, closing} & set(inner):
            return inner.strip()
    return word


def half_width(value: str) -> str:
    """A list with the commas, colons and equals signs of a Chinese keyboard as ASCII has them."""
    return value.translate(_FULL_WIDTH)


def integer(value: str) -> int:
    """A whole number."""
    try:
        return int(value) if "." not in value else _whole(float(value))
    except ValueError:
        raise ValueError(tr("a whole number")) from None


def _whole(number: float) -> int:
    if not number.is_integer():
        raise ValueError
    return int(number)


def natural(value: str) -> int:
    """A whole number of at least 0."""
    number = integer(value)
    if number < 0:
        raise ValueError(tr("a whole number of at least 0"))
    return number


def at_least_one(value: str) -> "int | Doubtful[Any]":
    """A whole number of at least 1; less, which Immich's own service takes for no limit, counts as not set."""
    number = integer(value)
    if number < 1:
        return Doubtful(
            MISSING, lambda variable: tr("{variable} is less than 1 and counts as not set", variable=variable)
        )
    return number


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
    if re.match("(tcp|udp)://", value.strip()):
        raise ValueError(
            tr(
                "a port number from 0 to 65535. Kubernetes sets such values for its Services: "
                "set enableServiceLinks: false for the pod"
            )
        )
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
    """Words separated by commas, ASCII's or Chinese ones."""
    return tuple(unquoted(name) for name in half_width(value).split(",") if unquoted(name))


def device_ids(value: str) -> tuple[int, ...]:
    """Numbers of devices, separated by commas."""
    numbers = names(value)
    if not numbers or not all(number.isdecimal() for number in numbers):
        raise ValueError(tr("device numbers separated by commas, such as 0 or 0,1"))
    return tuple(int(number) for number in numbers)


def task_devices(value: str) -> Mapping[str, int]:
    """Task → number of a device."""
    pairs = [word.lower().partition("=") for word in names(value)]
    if not all(task.strip() in TASKS and number.strip().isdecimal() for task, _, number in pairs):
        raise ValueError(tr("pairs task=number separated by commas; the tasks are {tasks}", tasks=", ".join(TASKS)))
    return MappingProxyType({task.strip(): int(number) for task, _, number in pairs})


def folder(value: str) -> Path:
    """A folder; ``~`` is the home."""
    try:
        if "\0" not in value:
            return Path(value).expanduser()
    except RuntimeError:  # ~name of nobody
        pass
    raise ValueError(tr("the path of a folder"))


def own_folder(value: str) -> "Path | Doubtful[Path]":
    """A folder whose content must outlive a container; ``~`` is the home."""
    path = folder(value)
    if not path.is_absolute():
        return Doubtful(
            path,
            lambda variable: tr(
                "{variable} is no absolute path: the models go to {folder}, which a new container does not have",
                variable=variable,
                folder=path.absolute(),
            ),
        )
    return path


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
    if not is_http(address):
        raise ValueError(tr("an address such as http://host:3003"))
    return address


def is_http(address: str) -> bool:
    """Whether an address of http or https names a host, and neither a query nor a fragment."""
    try:
        parts = urlsplit(address)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # it quotes the address, with its password
        return False
    return valid and not parts.query and not parts.fragment


def redis(value: str) -> str:
    """An address of Redis; a unix socket's path is one too."""
    address = value.strip()
    if urlsplit(address).scheme not in {"redis", "rediss", "unix"}:
        raise ValueError(tr("an address such as redis://host:6379"))
    return address


def endpoint(value: str) -> "str | Doubtful[str]":
    """Hugging Face's address or a mirror's; without a scheme it is one of https."""
    if "://" in value:
        return _mirror(value)
    return Doubtful(
        _mirror(f"https://{value}"),
        lambda variable: tr("{variable} does not begin with https://; it is taken as if it did", variable=variable),
    )


def _mirror(value: str) -> str:
    try:
        return address(value)
    except ValueError:
        raise ValueError(tr("an address such as https://hf-mirror.com")) from None


def tasks(value: str) -> tuple[str, ...]:
    """Tasks separated by commas."""
    chosen = tuple(name.lower() for name in names(value))
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


def log_level(value: str) -> "LogLevel | Doubtful[LogLevel]":
    """A level of the log; Immich takes what it does not know for its default, and so do we."""
    word = value.strip().lower()
    level = next((known for known in get_args(LogLevel) if known == word), _OTHER_LEVELS.get(word))
    if level is not None:
        return level
    levels = ", ".join(get_args(LogLevel))
    return Doubtful(
        "log",
        lambda variable: tr("{variable} is none of {levels}: it counts as log", variable=variable, levels=levels),
    )


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """One of a few words."""

    def parse(value: str) -> str:
        word = value.strip().lower()
        if word not in choices:
            raise ValueError(tr("one of {choices}", choices=", ".join(choices)))
        return word

    return parse
