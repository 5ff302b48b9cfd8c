"""What the text of a variable may be, and the value that it stands for.

Each function raises ValueError with what is allowed, as the end of a sentence: "it must be …". One that takes a value
for something else than was written returns it as `Doubtful`.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, TypeVar, cast, get_args

from immich_ml_cn.messages import Language, Message, language_for, tr
from immich_ml_cn.sources.tasks import ModelTask

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

LogLevel = Literal["verbose", "debug", "log", "info", "warn", "error", "critical"]
OpenVinoPrecision = Literal["auto", "f32", "bf16", "f16"]

PILLOWS_LIMIT: Final = 178_956_970
"""Pixels above which Pillow takes an image for a decompression bomb, whatever we set."""

_LOG_LEVELS: Final[Mapping[str, LogLevel]] = {
    **{level: level for level in get_args(LogLevel)},
    **{"warning": "warn", "fatal": "critical"},  # only Immich's server or only its machine learning knows these
}
_PRECISIONS: Final[Mapping[str, OpenVinoPrecision]] = {
    **{precision: precision for precision in get_args(OpenVinoPrecision)},
    **{"fp32": "f32", "fp16": "f16"},
}
_QUOTES: Final = ('""', "''", "“”", "‘’")
_FULL_WIDTH: Final = str.maketrans({"，": ",", "、": ",", "＝": "=", "：": ":"})


@dataclass(frozen=True, slots=True)
class Doubtful(Generic[T_co]):
    """A value that is used, though it is probably not what was meant; `remark` says so of the variable it is given.

    `dataclasses.MISSING` is the value of a variable that counts as not set.
    """

    value: T_co
    remark: Callable[[str], Message]


# --- text ---


def unquoted(value: str) -> str:
    """A value without white space and quotes around it, which ``docker run --env-file`` and templates leave there."""
    word = value.strip()
    for opening, closing in _QUOTES:
        inner = word[1:-1]
        if len(word) > 1 and word[0] == opening and word[-1] == closing and not {opening, closing} & set(inner):
            return inner.strip()
    return word


def word(value: str) -> str:
    """A word, without space around it."""
    return value.strip()


def names(value: str) -> tuple[str, ...]:
    """Words separated by commas; these, colons and equals signs may be those of a Chinese keyboard."""
    return tuple(name for part in value.translate(_FULL_WIDTH).split(",") if (name := unquoted(part)))


def check(value: T, fits: bool, allowed: Message) -> T:
    """
    Raises:
        ValueError: the value does not fit.
    """
    if not fits:
        raise ValueError(allowed)
    return value


def one_of(literal: object) -> Callable[[str], Any]:
    """One of the words of a `Literal`."""
    choices = get_args(literal)

    def parse(value: str) -> str:
        word = value.strip().lower()
        return check(word, word in choices, tr("one of {choices}", choices=", ".join(choices)))

    return parse


def flag(value: str) -> bool:
    """A yes or no."""
    word = value.strip().lower()
    is_yes, is_no = word in {"1", "true", "yes", "on", "t", "y"}, word in {"0", "false", "no", "off", "f", "n"}
    return check(is_yes, is_yes or is_no, tr("true or false"))


def presence(value: str) -> bool:
    """Yes, unless it says no: for variables that count by being set."""
    return value.strip().lower() not in {"0", "false"}


def log_level(value: str) -> LogLevel | Doubtful[LogLevel]:
    """A level of the log; Immich takes what it does not know for its default, and so do we."""
    levels = ", ".join(get_args(LogLevel))
    return _LOG_LEVELS.get(value.strip().lower()) or Doubtful(
        "log",
        lambda variable: tr("{variable} is none of {levels}: it counts as log", variable=variable, levels=levels),
    )


def openvino_precision(value: str) -> OpenVinoPrecision:
    """OpenVINO's name of a precision, or Immich's."""
    word = value.strip().lower()
    check(word, word in _PRECISIONS, tr("one of FP32, FP16, BF16, auto"))
    return _PRECISIONS[word]


def language(value: str) -> Language:
    """A language that there are messages in, by its code or a locale of it."""
    found = language_for(value)
    if found is None:
        raise ValueError(tr("en or zh"))
    return found


# --- numbers ---


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
    return check(number, number >= 0, tr("a whole number of at least 0"))


def positive(value: str) -> int:
    """A whole number of at least 1."""
    number = integer(value)
    return check(number, number >= 1, tr("a whole number of at least 1"))


def at_least_one(value: str) -> int | Doubtful[int]:
    """A whole number of at least 1; less, which Immich's own service takes for no limit, counts as not set."""
    number = integer(value)
    if number >= 1:
        return number
    not_set = cast(int, MISSING)
    return Doubtful(not_set, lambda variable: tr("{variable} is less than 1 and counts as not set", variable=variable))


def pixels(value: str) -> int:
    """A number of pixels that Pillow opens."""
    number = positive(value)
    allowed = tr("a number of pixels up to {limit}, above which Pillow refuses an image", limit=PILLOWS_LIMIT)
    return check(number, number <= PILLOWS_LIMIT, allowed)


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
    return check(number, 0 <= number <= 65535, tr("a port number from 0 to 65535"))


def _decimal(value: str) -> float:
    """A number; what is none becomes NaN, which is in no range."""
    try:
        return float(value)
    except ValueError:
        return math.nan


def seconds(value: str) -> float:
    """Seconds; 0 and less have a meaning of their own."""
    number = _decimal(value)
    return check(number, math.isfinite(number), tr("a number of seconds"))


def waiting_time(value: str) -> float:
    """Seconds above 0."""
    number = seconds(value)
    return check(number, number > 0, tr("a number of seconds above 0"))


def score(value: str) -> float:
    """A number from 0 to 1."""
    number = _decimal(value)
    return check(number, 0 <= number <= 1, tr("a number from 0 to 1"))


def device_ids(value: str) -> tuple[int, ...]:
    """Numbers of devices, separated by commas."""
    numbers = names(value)
    fits = bool(numbers) and all(number.isdecimal() for number in numbers)
    check(numbers, fits, tr("device numbers separated by commas, such as 0 or 0,1"))
    return tuple(map(int, numbers))


# --- tasks ---


def tasks(value: str) -> tuple[ModelTask, ...]:
    """Tasks separated by commas."""
    words = tuple(name.lower() for name in names(value))
    check(words, set(words) <= set(ModelTask), tr("a comma list of {choices}", choices=", ".join(ModelTask)))
    return tuple(map(ModelTask, words))


def task_devices(value: str) -> Mapping[ModelTask, int]:
    """Task → number of a device."""
    pairs = [[part.strip() for part in word.lower().partition("=")] for word in names(value)]
    fits = all(task in set(ModelTask) and number.isdecimal() for task, _, number in pairs)
    allowed = tr("pairs task=number separated by commas; the tasks are {tasks}", tasks=", ".join(ModelTask))
    check(pairs, fits, allowed)
    return MappingProxyType({ModelTask(task): int(number) for task, _, number in pairs})


# --- places ---


def folder(value: str) -> Path:
    """A folder; ``~`` is the home."""
    try:
        if "\0" not in value:
            return Path(value).expanduser()
    except RuntimeError:  # ~name of nobody
        pass
    raise ValueError(tr("the path of a folder"))


def own_folder(value: str) -> Path | Doubtful[Path]:
    """A folder whose content must outlive a container; ``~`` is the home."""
    path = folder(value)
    if path.is_absolute():
        return path
    return Doubtful(
        path,
        lambda variable: tr(
            "{variable} is no absolute path: the models go to {folder}, which a new container does not have",
            variable=variable,
            folder=path.absolute(),
        ),
    )


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
    fits = name not in {"", ".", ".."} and not set(name) & set("/\\\0")
    return check(name, fits, tr("the name of a branch or tag, without slashes"))


def device(value: str) -> str:
    """MT Photos' name of a device, without a number."""
    return value.strip().lower().partition(":")[0]
