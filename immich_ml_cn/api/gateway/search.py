"""Immich's two search calls, answered with what Immich finds in the text of photos.

A search with a prefix is a metadata call for each written form of each word, joined, narrowed and paged here. A plain
one, where that is switched on, mixes what the smart call finds by meaning with what it finds by text. All else goes to
Immich byte for byte.
"""

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Sequence
from typing import Final, TypeVar

import orjson

from immich_ml_cn.api.json_object import Json
from immich_ml_cn.errors import ServiceError
from immich_ml_cn.search.query import Query, Term

from . import results, search_request
from .credentials import fingerprint
from .immich import Caller, Immich, Reply
from .results import Item, Page
from .search_request import MAX_SIZE, Call, SearchRequest
from .shown import ShownHits

T = TypeVar("T")

logger = logging.getLogger(__name__)

EXTRA_TIMEOUT_S: Final = 1.5
"""Seconds that what we add to Immich's plain answer may take; after that it is given without."""
MAX_MATCHES: Final = 10 * MAX_SIZE
"""Photos that are read for one word where several have to be compared."""
MAX_SCROLLED: Final = 100 * MAX_SIZE
"""Photos of one word that can be paged through."""
JSON: Final = "application/json; charset=utf-8"


class Refused(Exception):
    """Immich refused a call, or answered something else than photos."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"Immich answered {reply.status}")
        self.reply = reply


class SearchGateway:
    """Answers search calls with what one Immich server finds for the caller."""

    def __init__(self, immich: Immich, *, hybrid: bool) -> None:
        """
        Args:
            hybrid: mix text into searches without a prefix.
        """
        self._immich = immich
        self._hybrid = hybrid
        self._secret = secrets.token_bytes(32)
        self._shown = ShownHits()

    async def search(self, call: Call, caller: Caller, body: bytes, content_type: str) -> Reply:
        """The answer to a search call.

        Raises:
            UpstreamFailed, UpstreamTimeout: Immich cannot be reached.
        """
        request = search_request.read(call, body)
        try:
            if request is not None and request.query is not None and _finds_text(request.call, request.query):
                return await self._by_text(_Search(self._immich, caller, request), request.query)
            if request is not None and self._is_mixed(request):
                return await self._mixed(_Search(self._immich, caller, request), body, content_type)
        except Refused as refusal:
            return refusal.reply
        rewritten = search_request.without_prefix(body) if request is None else None
        return await self._immich.post(_path(call), caller, rewritten or body, content_type)

    def _is_mixed(self, request: SearchRequest) -> bool:
        return self._hybrid and request.call == "smart" and request.query is None and bool(request.words)

    async def _by_text(self, search: "_Search", query: Query) -> Reply:
        """Photos that have all terms as text, and none of the excluded ones."""
        found = await (search.by_meaning(query) if query.meaning else search.by_date(query))
        items, next_page = results.cut(found.items, search.request.page, search.request.size)
        return Reply(200, JSON, found.with_items(items, next_page))

    async def _mixed(self, search: "_Search", body: bytes, content_type: str) -> Reply:
        """What is found by meaning; what is found by text is fused into the first page and left out of later ones.

        Later pages drop what the first one showed, also where the extra call was late for it or fails by now: else a
        photo would be missing, or come twice.
        """
        request = search.request
        key = self._key(search)
        shown = self._shown.get(key) if request.page > 1 else None
        plain = self._immich.post(_path("smart"), search.caller, body, content_type)
        if shown is None:
            reply, extra = await _with_extra(plain, [search.hits()])
            hits: Sequence[Item] = extra[0].items if extra else ()
            shown = results.ids(hits)
        else:
            reply, hits = await plain, ()
        page = _read(reply)
        if request.page == 1:
            self._shown.put(key, shown)
        if not shown:
            return reply
        first = request.page == 1
        items = results.fused([page.items, hits]) if first else results.without(page.items, shown)
        return Reply(200, reply.content_type, page.with_items(items, page.next_page))

    def _key(self, search: "_Search") -> bytes:
        body = orjson.dumps(search.request.smart_body(search.request.words, 1, 1), option=orjson.OPT_SORT_KEYS)
        return fingerprint(self._secret, search.caller.credentials, search.caller.query_string, body)


class _Search:
    """The calls to Immich that one search takes."""

    def __init__(self, immich: Immich, caller: Caller, request: SearchRequest) -> None:
        self._immich = immich
        self.caller = caller
        self.request = request

    async def hits(self) -> Page:
        """A first page of what has the words as text, by meaning."""
        request = self.request
        return await self._ask("smart", request.smart_body(request.words, 1, request.size, request.words))

    async def by_date(self, query: Query) -> Page:
        """All matches that the page needs, in the order of the metadata call."""
        first, *others = query.terms
        alone = not others and not query.excluded
        needed = min(self.request.page * self.request.size + 1, MAX_SCROLLED) if alone else MAX_MATCHES
        found = await self._with_term(first, needed)
        items = await self._narrowed(found.items, others, query.excluded)
        ascending = self.request.filters.get("order") == "asc"
        return Page(found.document, tuple(results.by_date(items, ascending=ascending)), None)

    async def by_meaning(self, query: Query) -> Page:
        """Up to 1,000 matches in the order of the smart call; those of several written forms are fused by rank."""
        first, *others = query.terms
        bodies = [self.request.smart_body(query.meaning, 1, MAX_SIZE, form) for form in first.written_forms]
        typed, *further = [self._ask("smart", body) for body in bodies]
        page, pages = await _with_extra(typed, further)
        items = await self._narrowed(results.fused([page.items, *(p.items for p in pages)]), others, query.excluded)
        return Page(page.document, tuple(items), None)

    async def _narrowed(self, items: Sequence[Item], wanted: Sequence[Term], excluded: Sequence[Term]) -> list[Item]:
        terms = [*wanted, *excluded] if items else []
        found = await asyncio.gather(*(self._with_term(term, MAX_MATCHES) for term in terms))
        kept = list(items)
        for number, page in enumerate(found):
            narrow = results.within if number < len(wanted) else results.without
            kept = narrow(kept, results.ids(page.items))
        return kept

    async def _with_term(self, term: Term, needed: int) -> Page:
        """Photos with a term in any of its written forms, `needed` of each where there are as many."""
        typed, *further = [self._pages(form, needed) for form in term.written_forms]
        page, pages = await _with_extra(typed, further)
        return Page(page.document, tuple(results.joined([page.items, *(p.items for p in pages)])), None)

    async def _pages(self, text: str, needed: int) -> Page:
        """Pages of the metadata call as one, until there are `needed` photos or no more."""
        size = min(MAX_SIZE, needed)
        pages = [await self._ask("metadata", self.request.metadata_body(text, 1, size))]
        while pages[-1].next_page is not None and len(pages) * size < needed:
            pages.append(await self._ask("metadata", self.request.metadata_body(text, len(pages) + 1, size)))
        return Page(pages[0].document, tuple(results.joined(page.items for page in pages)), None)

    async def _ask(self, call: Call, document: dict[str, Json]) -> Page:
        return _read(await self._immich.post_json(_path(call), self.caller, document))


def _finds_text(call: Call, query: Query) -> bool:
    """Whether Immich's search in texts can answer a query.

    It keeps pairs of ideographs and finds a single one only where it stands alone. The smart call finds it anywhere:
    the vector of such a query, which comes from here, puts the photos with it first.
    """
    single = any(term.is_single_ideograph for term in (*query.terms, *query.excluded))
    return bool(query.terms) and not (single and call == "smart")


async def _with_extra(
    plain: Coroutine[object, object, T], extra: Sequence[Coroutine[object, object, Page]]
) -> "tuple[T, list[Page]]":
    """Await a call, and others beside it; of those, what is late or fails is left out.

    Raises:
        Refused, UpstreamFailed, UpstreamTimeout: the first call failed.
    """
    others = [asyncio.ensure_future(_or_none(call)) for call in extra]
    try:
        answer = await plain
        found = await asyncio.gather(*others)
    finally:
        for other in others:
            other.cancel()
    return answer, [page for page in found if page is not None]


async def _or_none(call: Coroutine[object, object, Page]) -> Page | None:
    try:
        async with asyncio.timeout(EXTRA_TIMEOUT_S):
            return await call
    except (TimeoutError, Refused, ServiceError) as error:
        logger.warning("part of a search was left out: %s", error or f"no answer within {EXTRA_TIMEOUT_S} s")
        return None


def _path(call: Call) -> str:
    return f"/api/search/{call}"


def _read(reply: Reply) -> Page:
    """
    Raises:
        Refused: it is no list of photos.
    """
    if not reply.is_success:
        raise Refused(reply)
    try:
        return results.read_page(reply.body)
    except ValueError:
        raise Refused(reply) from None
