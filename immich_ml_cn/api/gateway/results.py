"""Lists of photos as Immich answers them: joined, narrowed, fused, cut into pages. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from immich_ml_cn.api.json_object import Json, json_object

Item = Mapping[str, Json]

RANK_CONSTANT: Final = 60
"""k of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of Immich's.

    Attributes:
        document: all of it.
        items: its photos, in order.
        next_page: what Immich calls the page after it, None at the end.
    """

    document: Mapping[str, Json]
    items: tuple[Item, ...]
    next_page: str | None

    def with_items(self, items: Sequence[Item], next_page: str | None) -> bytes:
        """The answer with other photos, in Immich's form."""
        assets = self.document["assets"]
        kept = dict(assets) if isinstance(assets, dict) else {}
        counted = {"total": len(items), "count": len(items), "items": list(items), "nextPage": next_page}
        return orjson.dumps({**self.document, "assets": {**kept, **counted}})


def read_page(body: bytes) -> Page:
    """
    Raises:
        ValueError: it is no answer of a search.
    """
    document = json_object(body) or {}
    assets = document.get("assets")
    if not isinstance(assets, dict):
        raise ValueError("no assets")
    items = assets.get("items")
    photos = [item for item in items if isinstance(item, dict) and "id" in item] if isinstance(items, list) else []
    if items != photos:
        raise ValueError("no assets.items")
    following = assets.get("nextPage")
    return Page(document, tuple(photos), None if following is None else str(following))


def id_of(item: Item) -> str:
    """A photo's id."""
    return str(item["id"])


def ids(items: Iterable[Item]) -> frozenset[str]:
    """The ids of photos."""
    return frozenset(map(id_of, items))


def joined(lists: Iterable[Iterable[Item]]) -> list[Item]:
    """Photos of several lists, each once."""
    return list({id_of(item): item for items in lists for item in items}.values())


def by_date(items: Iterable[Item], *, ascending: bool) -> list[Item]:
    """In the order of Immich's metadata call: by ``fileCreatedAt``, newest first unless `ascending`; ties by id."""
    return sorted(items, key=lambda item: (str(item.get("fileCreatedAt", "")), id_of(item)), reverse=not ascending)


def fused(lists: Sequence[Sequence[Item]]) -> list[Item]:
    """Reciprocal rank fusion: a photo counts for 1 / (k + rank) in each list that has it."""
    scores: dict[str, float] = {}
    for items in lists:
        for rank, item in enumerate(items, 1):
            scores[id_of(item)] = scores.get(id_of(item), 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(joined(lists), key=lambda item: -scores[id_of(item)])


def within(items: Iterable[Item], kept: Collection[str]) -> list[Item]:
    """Photos with one of these ids."""
    return [item for item in items if id_of(item) in kept]


def without(items: Iterable[Item], dropped: Collection[str]) -> list[Item]:
    """Photos with none of these ids."""
    return [item for item in items if id_of(item) not in dropped]


def cut(items: Sequence[Item], page: int, size: int) -> tuple[Sequence[Item], str | None]:
    """One page of a list, and the number of the next, None at the end."""
    end = page * size
    return items[end - size : end], str(page + 1) if len(items) > end else None
