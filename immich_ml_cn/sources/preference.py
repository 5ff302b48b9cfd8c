"""Which sources are tried first."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
