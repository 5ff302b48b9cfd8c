"""What a field of the settings is read from: its environment variable."""

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from itertools import pairwise
from typing import Any, Generic, Literal, TypeVar

from immich_ml_cn.messages import Message, tr

from .values import Doubtful

T = TypeVar("T")


class SettingsError(ValueError):
    """A variable has a value that cannot be used; the message names the variable, the value and what is allowed.

    A value that may hold a secret is not named.
    """


@dataclass(frozen=True, slots=True)
class SettingInForce:
    """A variable as it was read, for people.

    Attributes:
        value: as text; None where it may hold a secret, or where the variable is unknown.
        source: where the value comes from; ``unknown`` for a variable that looks like ours and does nothing.
        default: what it is where nothing is set, "" for nothing.
        near: of an unknown variable the known one that may be meant.
    """

    variable: str
    value: str | None
    source: Literal["environment", "default", "unknown"]
    default: str = ""
    near: str | None = None


@dataclass(frozen=True, slots=True)
class Variable(Generic[T]):
    """What a setting is read from.

    Attributes:
        parse: text → value; raises ValueError with what is allowed.
        aliases: read in this order where the variable itself is not set.
        shown: how the default is documented, where that is not the value itself.
        secret: its value holds a secret or may hold one, such as an address with a password, and is never shown.
    """

    name: str
    default: T
    parse: Callable[[str], T | Doubtful[T]]
    aliases: tuple[str, ...]
    shown: str | None
    secret: bool

    @property
    def default_text(self) -> str:
        """The default as it is documented; "" where nothing is set."""
        match self.default:
            case _ if self.shown is not None:
                return self.shown
            case None:
                return ""
            case bool(value):
                return str(value).lower()
            case float(value):
                return f"{value:g}"
            case tuple(values):
                return ",".join(map(str, values))
        return str(self.default)

    def read(self, environ: Mapping[str, str]) -> tuple[Any, Message | None]:
        """The value, `dataclasses.MISSING` where it is not set, and a remark if it is probably not what was meant.

        Raises:
            SettingsError: it cannot be used.
        """
        name, text = self._find(environ)
        try:
            value = self.parse(text) if text else MISSING
        except ValueError as error:
            raise SettingsError(self._refusal(name, text, error)) from None
        return (value.value, value.remark(name)) if isinstance(value, Doubtful) else (value, None)

    def in_force(self, environ: Mapping[str, str]) -> SettingInForce:
        """The variable as `read` finds it, for people."""
        name, text = self._find(environ)
        if not text:
            return SettingInForce(self.name, self.default_text, "default", self.default_text)
        return SettingInForce(name, None if self._may_be_secret(text) else text, "environment", self.default_text)

    def _find(self, environ: Mapping[str, str]) -> tuple[str, str]:
        """The variable or alias that is set, and its text; "" where none is."""
        return next(
            ((name, environ[name]) for name in (self.name, *self.aliases) if environ.get(name)), (self.name, "")
        )

    def _may_be_secret(self, text: str) -> bool:
        return self.secret or "@" in text

    def _refusal(self, name: str, text: str, error: ValueError) -> Message:
        if self._may_be_secret(text):
            return tr(
                "{variable} cannot be used (its value may hold a password and is not shown): it must be {allowed}",
                variable=name,
                allowed=error,
            )
        return tr("{variable}={value!r} cannot be used: it must be {allowed}", variable=name, value=text, allowed=error)


def setting(
    variable: str,
    default: T,
    parse: Callable[[str], T | Doubtful[T]],
    *,
    aliases: tuple[str, ...] = (),
    shown: str | None = None,
    secret: bool = False,
) -> T:
    """A dataclass field that knows its `Variable`, which see for the arguments."""
    known = Variable(variable, default, parse, aliases, shown, secret)
    return field(default_factory=lambda: default, repr=not secret, metadata={"variable": known})


def attribute_docstrings(owner: type) -> dict[str, str]:
    """Attribute → the text below it in the class's source (PEP 257), on one line; Python itself does not keep it."""
    found = {}
    for node in ast.walk(ast.parse(inspect.getsource(owner))):
        for pair in pairwise(node.body) if isinstance(node, ast.ClassDef) else ():
            match pair:
                case (ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text)))):
                    found[name] = " ".join(text.split())
    return found
