"""The gateway's parts by themselves: what is read of a call, what is asked of Immich, what is made of its answers."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_immich import FakeImmich, Photo
from serving_fakes import Clock

from immich_ml_cn.api.gateway import credentials, results, search_request, shown
from immich_ml_cn.api.gateway.asset_jobs import AssetJobs
from immich_ml_cn.api.gateway.immich import Caller, Immich, Reply
from immich_ml_cn.api.gateway.reprocessing import Part, Reprocessing
from immich_ml_cn.api.gateway.search import SearchGateway
from immich_ml_cn.errors import NotAllowed, Unavailable, UpstreamFailed

pytestmark = pytest.mark.anyio

TEXTS = ("发票 menu", "發票", "menu", "", "发票", "menu 作废")
PHOTOS = [Photo(f"{n:08x}-1111-4111-8111-111111111111", "anna", TEXTS[n % 6], f"20{n:02}") for n in range(24)]
ANNA = Caller(credentials.pick([("cookie", "a=1"), ("host", "x"), ("cookie", "immich_access_token=anna-token")]))


@pytest.fixture
async def immich() -> AsyncIterator[tuple[FakeImmich, Immich]]:
    with FakeImmich(PHOTOS, {"anna-token": "anna"}).running() as fake:
        client = Immich(f"http://127.0.0.1:{fake.port}/")
        yield fake, client
        await client.close()


async def search(client: Immich, document: Any, *, hybrid: bool = False) -> Reply:
    gateway = SearchGateway(client, hybrid=hybrid)
    return await gateway.search("smart", ANNA, json.dumps(document).encode(), "application/json")


def found(reply: Reply) -> list[str]:
    assert reply.status == 200
    return [item["id"] for item in json.loads(reply.body)["assets"]["items"]]


def having(*texts: str) -> list[str]:
    return [photo.id for photo in reversed(PHOTOS) if photo.text in texts]


async def test_text_in_every_form_newest_first(immich: tuple[FakeImmich, Immich]) -> None:
    _, client = immich
    assert found(await search(client, {"query": "ocr:發票"})) == having("发票 menu", "發票", "发票")
    assert (
        found(await search(client, {"query": "ocr:发票", "size": 3, "page": 2}))
        == (having("发票 menu", "發票", "发票")[3:6])
    )
    assert found(await search(client, {"query": "ocr:发票 menu"})) == having("发票 menu")
    assert found(await search(client, {"query": "ocr:menu -作废"})) == having("发票 menu", "menu")


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("words", ["ocr:票", "文字：發票 -废", "red ocr:票"])
async def test_a_single_character_is_left_to_the_smart_calls_vector(
    immich: tuple[FakeImmich, Immich], words: str, hybrid: bool
) -> None:
    fake, client = immich
    reply = await search(client, {"query": words, "page": 2, "size": 5}, hybrid=hybrid)
    assert [(call, body) for call, _, body in fake.requests] == [("smart", {"query": words, "page": 2, "size": 5})]
    assert found(reply) == [photo.id for photo in fake.found("smart", "anna", {"query": words})[5:10]]


async def test_a_single_character_of_the_metadata_call_is_immichs_to_find(immich: tuple[FakeImmich, Immich]) -> None:
    _, client = immich
    gateway = SearchGateway(client, hybrid=True)
    assert found(await gateway.search("metadata", ANNA, b'{"ocr": "\xe7\xa5\xa8"}', "application/json")) == []


async def test_text_in_the_order_of_a_meaning(immich: tuple[FakeImmich, Immich]) -> None:
    fake, client = immich
    in_order = [photo.id for photo in fake.found("smart", "anna", {"query": "red", "ocr": "menu"})]
    assert found(await search(client, {"query": "ocr:menu clip:red"})) == in_order


async def test_hits_by_text_come_first_once(immich: tuple[FakeImmich, Immich]) -> None:
    fake, client = immich
    gateway = SearchGateway(client, hybrid=True)

    async def page(number: int) -> list[str]:
        body = json.dumps({"query": "menu", "size": 8, "page": number}).encode()
        return found(await gateway.search("smart", ANNA, body, "application/json"))

    first, second, third = [await page(number) for number in (1, 2, 3)]
    hits = {photo.id for photo in fake.found("smart", "anna", {"query": "menu", "ocr": "menu"})[:8]}
    assert len(hits & set(first)) == 8
    assert not set(first) & set(second + third)
    assert set(first + second + third) == {photo.id for photo in PHOTOS}


async def test_without_the_extra_call_the_plain_answer_is_given(immich: tuple[FakeImmich, Immich]) -> None:
    fake, client = immich
    fake.broken.add("smart+ocr")
    plain = [photo.id for photo in fake.found("smart", "anna", {"query": "menu"})]
    assert found(await search(client, {"query": "menu"}, hybrid=True)) == plain


async def test_a_refusal_is_passed_on(immich: tuple[FakeImmich, Immich]) -> None:
    fake, client = immich
    fake.broken.add("metadata")
    assert (await search(client, {"query": "ocr:menu"})).status == 500
    assert (await search(client, {"query": "x", "queryAssetId": "y"})).status == 200


async def test_an_immich_that_is_gone(immich: tuple[FakeImmich, Immich]) -> None:
    with pytest.raises(UpstreamFailed, match="MACHINE_LEARNING_IMMICH_URL"):
        await search(Immich("http://127.0.0.1:9"), {"query": "ocr:menu"})


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"query": "x", "new": 1}',
        b'{"query": 1}',
        b'{"query": "x", "page": true}',
        b'{"query": "x", "size": 1001}',
    ],
)
async def test_what_is_not_understood(body: bytes) -> None:
    assert search_request.read("smart", body) is None


async def test_the_new_form() -> None:
    rewritten = search_request.without_prefix(b'{"query": "red ocr:menu", "filter": {"a": 1}, "cursor": "c"}')
    assert rewritten is not None
    assert json.loads(rewritten) == {"cursor": "c", "query": "red", "filter": {"a": 1, "ocr": {"matches": "menu"}}}
    assert search_request.without_prefix(b'{"query": "menu", "filter": {}}') is None
    assert search_request.without_prefix(b'{"query": "ocr:menu"}') is None


async def test_an_answer_that_is_none() -> None:
    for body in (b"[]", b'{"assets": 1}', b'{"assets": {"items": [1]}}'):
        with pytest.raises(ValueError, match="assets"):
            results.read_page(body)


async def test_hits_are_forgotten_in_time() -> None:
    clock = Clock()
    hits = shown.ShownHits(clock)
    hits.put(b"a", frozenset({"1"}))
    assert hits.get(b"a") == frozenset({"1"})
    assert hits.get(b"b") is None
    for number in range(shown.MAX_SEARCHES):
        hits.put(str(number).encode(), frozenset())
    assert hits.get(b"a") is None
    clock.now += shown.KEEP_S
    assert hits.get(b"1") is None


async def test_a_fingerprint_depends_on_who_asks_for_what() -> None:
    digests = {
        credentials.fingerprint(b"s", caller, query, body)
        for caller in ({}, {"cookie": "a"}, {"x-api-key": "a"})
        for query in ("", "key=1")
        for body in (b"", b"{}")
    }
    assert len(digests) == 12


async def test_only_the_owner_may_have_a_photo_made_again(immich: tuple[FakeImmich, Immich]) -> None:
    _, client = immich
    with pytest.raises(Unavailable, match="MACHINE_LEARNING_IMMICH_REDIS_URL"):
        await AssetJobs(client, None).reprocess(ANNA, PHOTOS[0].id, [Part.OCR])
    jobs = AssetJobs(client, Reprocessing("redis://127.0.0.1:9"))
    with pytest.raises(NotAllowed):
        await jobs.reprocess(Caller({}), PHOTOS[0].id, [Part.OCR])
    with pytest.raises(NotAllowed):
        await jobs.reprocess(ANNA, "ffffffff-1111-4111-8111-111111111111", [Part.OCR])
    assert (await jobs.preview(ANNA, PHOTOS[0].id)).content_type == "image/png"
    body = json.dumps({"assetIds": [PHOTOS[0].id], "name": "refresh-faces"}).encode()
    assert (await jobs.run(ANNA, body, "application/json")).status == 204
    await jobs.close()
