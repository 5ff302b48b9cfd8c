"""Addresses of other servers, and where models come from, as a person writes them in a setting."""

from urllib.parse import urlsplit

from immich_ml_cn.messages import tr
from immich_ml_cn.sources.kinds import Kind
from immich_ml_cn.sources.preference import Preference

from .values import Doubtful, check, names


def address(value: str) -> str:
    """An address of HTTP, without a slash at its end."""
    address = value.strip().rstrip("/")
    return check(address, is_http(address), tr("an address such as http://host:3003"))


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
    fits = urlsplit(address).scheme in {"redis", "rediss", "unix"}
    return check(address, fits, tr("an address such as redis://host:6379"))


def endpoint(value: str) -> str | Doubtful[str]:
    """Hugging Face's address or a mirror's; without a scheme it is one of https."""
    complete = "://" in value
    address = (value if complete else f"https://{value}").strip().rstrip("/")
    check(address, is_http(address), tr("an address such as https://hf-mirror.com"))
    if complete:
        return address
    return Doubtful(
        address,
        lambda variable: tr("{variable} does not begin with https://; it is taken as if it did", variable=variable),
    )


def parse_preference(text: str) -> Preference:
    """Which sources of models are tried first.

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
    return Preference(tuple(dict.fromkeys(order)), bases)


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
