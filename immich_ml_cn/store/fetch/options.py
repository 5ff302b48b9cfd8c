"""How to fetch: which sources in which order, and how patient to be."""

from dataclasses import dataclass, replace
from typing import Literal

from immich_ml_cn.sources import BASES, MIRRORS, Kind, Preference


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """Everything that may differ between installations.

    Attributes:
        hf_endpoint: Hugging Face or a mirror of it, None for the preference's or the usual one.
        hf_token: sent to Hugging Face; None lets its library look for a saved one.
        anonymous: whether no token is sent at all: the host is not Hugging Face's own.
        mirror: a public mirror of Hugging Face, for when nothing else answers and nobody has chosen; None for none.
        offline: never connect.
        connect_timeout_s: seconds to wait for a connection, and for Hugging Face's list of files.
        stall_timeout_s: seconds without enough bytes (or without a first answer) before a source is given up.
        min_bytes_per_s: below this mean rate over `stall_timeout_s` a transfer counts as stalled.
        max_retries: times a transfer may be cut without having brought a MiB since the last cut.
        max_retry_after_s: longest ``Retry-After`` in seconds that is waited for instead of trying the next source.
        backoff_s: seconds before the first repetition; doubles with each.
    """

    preference: Preference = Preference()
    hf_endpoint: str | None = None
    hf_token: str | None = None
    anonymous: bool = False
    mirror: str | None = MIRRORS[Kind.HUGGINGFACE]
    offline: bool = False
    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0
    min_bytes_per_s: float = 512.0
    max_retries: int = 5
    max_retry_after_s: float = 10.0
    backoff_s: float = 1.0

    @property
    def token(self) -> str | Literal[False] | None:
        """What is sent to Hugging Face, False for nothing."""
        return False if self.anonymous else self.hf_token

    def last_resort(self) -> "FetchOptions | None":
        """The same with the public mirror in Hugging Face's place and no token; None where a person has chosen."""
        if self.mirror is None or self.hf_endpoint or self.preference != Preference():
            return None
        return replace(self, hf_endpoint=self.mirror, anonymous=True)

    def base(self, kind: Kind) -> str:
        """What the addresses of a kind begin with, without a slash at the end."""
        chosen = self.preference.bases.get(kind)
        if chosen is None and kind is Kind.HUGGINGFACE:
            chosen = self.hf_endpoint
        return (chosen or BASES[kind]).rstrip("/")

    def address(self, kind: Kind, url: str) -> str:
        """The address of the table, moved to the chosen mirror."""
        return self.base(kind) + url.removeprefix(BASES[kind])
