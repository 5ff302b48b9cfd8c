"""What one search call asks for: the body of ``POST /api/search/smart`` or ``/metadata``, as Immich 2 and 3 have it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import orjson

from immich_ml_cn.api.json_object import Json, json_object
from immich_ml_cn.search.query import Query, parse

Call = Literal["smart", "metadata"]

SIZES: Final[Mapping[Call, int]] = {"smart": 100, "metadata": 250}
"""Items of a page where a body does not say."""
MAX_SIZE: Final = 1000

NEW_FORM: Final = frozenset({"filter", "orderBy", "cursor"})
"""Fields of Immich 3.2's new search API, of which only the prefix is understood."""

FIELDS: Final = frozenset(
    {
        *("albumIds", "checksum", "city", "country", "createdAfter", "createdBefore"),
        *("description", "deviceAssetId", "deviceId", "encodedVideoPath", "id", "isEncoded"),
        *("isFavorite", "isMotion", "isNotInAlbum", "isOffline", "language", "lensModel"),
        *("libraryId", "make", "model", "ocr", "order", "originalFileName"),
        *("originalPath", "page", "personIds", "previewPath", "query", "queryAssetId"),
        *("rating", "size", "state", "tagIds", "takenAfter", "takenBefore"),
        *("thumbnailPath", "trashedAfter", "trashedBefore", "type", "updatedAfter", "updatedBefore"),
        *("visibility", "withDeleted", "withExif", "withPeople", "withStacked"),
    }
)
"""Fields that are understood; a body with another one goes to Immich as it is."""
ONLY_SMART: Final = frozenset({"query", "queryAssetId", "language"})
ONLY_METADATA: Final = frozenset({"order", "withPeople", "withStacked"})


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A search call that is understood.

    Attributes:
        call: which of Immich's two.
        filters: the fields that narrow the search, without the words and the page.
        words: of the smart call: what it is asked for.
        query: the search in the text of photos, None where the words have no prefix.
        language: of the smart call.
        page: from 1.
        size: items of a page, 1 to 1,000.
    """

    call: Call
    filters: Mapping[str, Json]
    words: str
    query: Query | None
    language: Json
    page: int
    size: int

    def metadata_body(self, text: str, page: int, size: int) -> dict[str, Json]:
        """The body of a metadata call for photos with a text, with this search's filters."""
        filters = {name: value for name, value in self.filters.items() if name not in ONLY_SMART}
        return {**filters, "ocr": text, "page": page, "size": size}

    def smart_body(self, words: str, page: int, size: int, text: str | None = None) -> dict[str, Json]:
        """The body of a smart call, with this search's filters; `text` narrows it to photos with that text."""
        filters = {name: value for name, value in self.filters.items() if name not in ONLY_METADATA}
        language = {} if self.language is None else {"language": self.language}
        narrowed = {} if text is None else {"ocr": text}
        return {**filters, **language, **narrowed, "query": words, "page": page, "size": size}


def read(call: Call, body: bytes) -> SearchRequest | None:
    """A call's body; None where it is not understood and has to go to Immich as it is."""
    document = json_object(body)
    if document is None or document.keys() - FIELDS or "queryAssetId" in document:
        return None
    if call == "smart" and "ocr" in document:
        return None  # narrowed by text already
    words = document.get("query" if call == "smart" else "ocr")
    page, size = _whole(document.get("page", 1)), _whole(document.get("size", SIZES[call]))
    if not isinstance(words, str) or page is None or size is None or size > MAX_SIZE:
        return None
    used = {"page", "size", "language", "query" if call == "smart" else "ocr"}
    filters = {name: value for name, value in document.items() if name not in used}
    return SearchRequest(call, filters, words.strip(), parse(words), document.get("language"), page, size)


def without_prefix(body: bytes) -> bytes | None:
    """A body of the new form whose prefix became a filter by text; None for any other body.

    ``{"query": "ocr:发票", "filter": {…}}`` → ``{"filter": {…, "ocr": {"matches": "发票"}}}``
    """
    document = json_object(body)
    if document is None or not document.keys() & NEW_FORM:
        return None
    words, filters = document.get("query"), document.get("filter", {})
    query = parse(words) if isinstance(words, str) else None
    if query is None or not isinstance(filters, dict):
        return None
    rest: dict[str, Json] = {name: value for name, value in document.items() if name not in ("query", "filter")}
    text = " ".join(term.text for term in query.terms)
    meaning: dict[str, Json] = {"query": query.meaning} if query.meaning else {}
    return orjson.dumps({**rest, **meaning, "filter": {**filters, "ocr": {"matches": text}}})


def _whole(value: Json) -> int | None:
    """A whole number of at least 1; older clients send it as text."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None
