"""Which sources are tried first, as a person writes it in a setting."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from immich_ml_cn.messages import tr
from immich_ml_cn.setting_values import is_http, names

from .kinds import Kind


@dataclass(frozen=True, slots=True)
class Preference:
    """Which sources come first, and what stands in for their usual hosts.

    Attributes:
        order: tried first, in this order; the others follow. Empty: ``auto``, hosts that did not answer go last.
        bases: what the addresses of a kind begin with instead of `sources.BASES`.
    """

    order: tuple[Kind, ...] = ()
    bases: Mapping[Kind, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Preference":
        """Read a preference as a person writes it.

        Args:
            text: ``auto``; or a comma list of ``huggingface``, ``modelscope`` and ``github``, each also as
                ``name=https://mirror``; an address alone stands for Hugging Face (``https://hf-mirror.com``, or just
                ``hf-mirror.com``).

        Raises:
            ValueError: an unknown name, or a mirror that is no http address.
        """
        order: list[Kind] = []
        bases: dict[Kind, str] = {}
        for word in names(text):
            if word.lower() == "auto":
                continue
            name, _, base = word.partition("=") if not _is_address(word) else ("", "", word)
            kind = _kind(name.strip().lower() or Kind.HUGGINGFACE)
            order.append(kind)
            if base:
                bases[kind] = _base(base)
        return cls(tuple(dict.fromkeys(order)), bases)


def _is_address(word: str) -> bool:
    """An address, or a host's name alone; every kind is a word without a dot."""
    before, equals, _ = word.partition("=")
    return "://" in before or ("." in before and not equals)


def _kind(name: str) -> Kind:
    try:
        return Kind(name)
    except ValueError:
        known = ", ".join(Kind)
        if name.isalnum():
            raise ValueError(
                tr("one of auto, {known} or a mirror's address, not {name!r}", known=known, name=name)
            ) from None
        # Anything else may hold a password.
        raise ValueError(tr("one of auto, {known} or a mirror's address", known=known)) from None


def _base(address: str) -> str:
    base = address.strip()
    if "://" not in base:
        base = f"https://{base}"
    if not is_http(base):
        raise ValueError(tr("a list of sources whose mirrors are addresses of http or https"))
    return base.rstrip("/")
