"""The gateway before a fake Immich: nothing foreign, nothing twice, nothing missing, and nothing that it makes up."""

import http.client
import json
import random
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import pytest
from fake_immich import FakeImmich, Photo
from server import RunningServer

WORDS = ("发票", "發票", "火车票", "menu", "收据", "地图")
MODES = ("prefix", "hybrid")
NOBODY = {"cookie": "immich_access_token=wrong"}
ANNA = {"cookie": "theme=dark; immich_access_token=anna-token"}
BERT = {"x-api-key": "bert-token"}


def library(count: int = 600, seed: int = 1) -> FakeImmich:
    """Photos of two users; Anna sees Bert's, but for archived and locked ones."""
    chance = random.Random(seed)
    photos = [
        Photo(
            id=str(uuid.UUID(int=chance.getrandbits(128))),
            owner=chance.choice(("anna", "bert")),
            text=" ".join(chance.sample(WORDS, chance.choice((0, 0, 1, 2)))),
            created=f"20{chance.randrange(10, 26)}-{chance.randrange(1, 13):02}-11T00:00:00.000Z",
            visibility=chance.choice(("timeline", "timeline", "archive", "locked")),
            favorite=chance.random() < 0.3,
        )
        for _ in range(count)
    ]
    tokens = {"anna-token": "anna", "bert-token": "bert"}
    return FakeImmich(photos, tokens, partners={"anna": "bert"})


@dataclass
class Installation:
    immich: FakeImmich
    server: RunningServer
    mode: str = "prefix"

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.request("POST", path, body, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers["content-type"]
        finally:
            connection.close()

    def search(self, call: str, document: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        status, body, _ = self.post(f"/api/search/{call}", json.dumps(document).encode(), headers)
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def pages(self, call: str, document: Mapping[str, Any], headers: Mapping[str, str]) -> list[list[str]]:
        """The ids of all pages, asked for as Immich's web client does."""
        pages, page = [], 1
        while True:
            assets = self.search(call, {**document, "page": page}, headers)["assets"]
            assert assets["total"] == assets["count"] == len(assets["items"])
            pages.append([item["id"] for item in assets["items"]])
            if assets["nextPage"] is None:
                return pages
            page = int(assets["nextPage"])


@pytest.fixture(scope="module", params=MODES)
def installation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with (
        library().running() as immich,
        RunningServer(
            tmp_path_factory.mktemp("cache"),
            MACHINE_LEARNING_IMMICH_URL=f"http://127.0.0.1:{immich.port}",
            MACHINE_LEARNING_TEXT_SEARCH=request.param,
            MACHINE_LEARNING_API_KEY="our own key",
        ) as server,
    ):
        yield Installation(immich, server, request.param)


def flat(pages: Iterable[Iterable[str]]) -> list[str]:
    return list(chain.from_iterable(pages))


def with_text(installation: Installation, user: str, *forms: str, **filters: Any) -> list[str]:
    """The ids of what a user may see and find, newest first: the union over a word's written forms."""
    found = {photo for form in forms for photo in installation.immich.found("metadata", user, {"ocr": form, **filters})}
    return [photo.id for photo in sorted(found, key=lambda photo: (photo.created, photo.id), reverse=True)]


@pytest.mark.parametrize("prefix", ["ocr:", "OCR：", "文字:"])
@pytest.mark.parametrize("call", ["smart", "metadata"])
def test_a_prefix_finds_every_written_form(installation: Installation, prefix: str, call: str) -> None:
    field = "query" if call == "smart" else "ocr"
    pages = installation.pages(call, {field: f"{prefix}發票", "size": 40}, ANNA)
    assert all(len(page) == 40 for page in pages[:-1])
    assert flat(pages) == with_text(installation, "anna", "发票", "發票")


def test_several_words_are_all_wanted_and_a_minus_excludes(installation: Installation) -> None:
    both = [one for one in with_text(installation, "anna", "收据") if one in with_text(installation, "anna", "menu")]
    assert flat(installation.pages("smart", {"query": "ocr:收据 menu"}, ANNA)) == both
    rest = [
        one for one in with_text(installation, "anna", "收据") if one not in with_text(installation, "anna", "menu")
    ]
    assert flat(installation.pages("smart", {"query": "ocr:收据 -menu"}, ANNA)) == rest
    assert both
    assert rest


def test_words_of_meaning_order_what_has_the_text(installation: Installation) -> None:
    ordered = installation.immich.found("smart", "anna", {"query": "红色", "ocr": "menu"})
    pages = installation.pages("smart", {"query": "红色 ocr:menu", "size": 30}, ANNA)
    assert flat(pages) == [photo.id for photo in ordered]


def test_two_hundred_random_searches_show_nothing_foreign_twice_or_missing(installation: Installation) -> None:
    chance = random.Random(7)
    for _ in range(200):
        user, headers = chance.choice((("anna", ANNA), ("bert", BERT)))
        filters: dict[str, Any] = chance.choice(
            ({}, {"isFavorite": True}, {"visibility": "archive"}, {"takenAfter": "2018"}, {"takenBefore": "2020"})
        )
        word, prefix = chance.choice(WORDS), chance.choice(("ocr:", ""))
        size = chance.choice((25, 40, 100))
        pages = installation.pages("smart", {"query": prefix + word, "size": size, **filters}, headers)[:10]
        shown = flat(pages)
        in_order = [photo.id for photo in installation.immich.found("smart", user, {"query": word, **filters})]
        assert len(shown) == len(set(shown))
        assert set(shown) <= set(in_order)
        if not prefix:
            assert len(shown) >= min(len(in_order), 10 * size)
        if not prefix and installation.mode == "prefix":
            assert shown == in_order[: len(shown)]


def test_a_plain_search_has_hits_by_text_on_its_first_page(installation: Installation) -> None:
    first, *others = installation.pages("smart", {"query": "menu", "size": 50}, ANNA)
    hits = [photo.id for photo in installation.immich.found("smart", "anna", {"query": "menu", "ocr": "menu"})][:50]
    if installation.mode == "hybrid":
        assert set(hits) <= set(first)
        assert not set(hits) & set(flat(others))
    else:
        assert first == [photo.id for photo in installation.immich.found("smart", "anna", {"query": "menu"})][:50]


UNTOUCHED = {
    "another photo": {"queryAssetId": "x", "page": 1},
    "an unknown field": {"query": "ocr:menu", "brandNew": 1},
    "the new form": {"query": "menu", "filter": {"ocr": {"matches": "x"}}, "cursor": None},
    "a size beyond": {"query": "ocr:menu", "size": 5000},
    "text already": {"query": "menu", "ocr": "menu"},
    "a page that is none": {"query": "ocr:menu", "page": 0},
}


@pytest.mark.parametrize("case", UNTOUCHED)
def test_what_is_not_understood_goes_to_immich_byte_for_byte(installation: Installation, case: str) -> None:
    raw = json.dumps(UNTOUCHED[case], indent=3).encode()
    before = len(installation.immich.requests)
    installation.post("/api/search/smart", raw, ANNA)
    ((_, headers, got),) = installation.immich.requests[before:]
    assert got == UNTOUCHED[case]
    assert headers["content-length"] == str(len(raw))


def test_the_new_forms_prefix_becomes_its_filter(installation: Installation) -> None:
    before = len(installation.immich.requests)
    installation.post("/api/search/smart", b'{"query":"ocr:menu","filter":{"isFavorite":{"eq":true}}}', ANNA)
    ((_, _, got),) = installation.immich.requests[before:]
    assert got == {"filter": {"isFavorite": {"eq": True}, "ocr": {"matches": "menu"}}}


def test_no_json_is_immichs_to_refuse(installation: Installation) -> None:
    assert installation.post("/api/search/smart", b"{", ANNA)[0] == 400


@pytest.mark.parametrize("words", ["ocr:menu", "menu"])
def test_immichs_refusal_is_the_answer(installation: Installation, words: str) -> None:
    status, body, _ = installation.post("/api/search/smart", json.dumps({"query": words}).encode(), NOBODY)
    assert (status, json.loads(body)["message"]) == (401, "Authentication required")


@pytest.mark.parametrize(("call", "words"), [("smart", "menu"), ("metadata", "ocr:menu")])
def test_immichs_own_failure_is_the_answer(installation: Installation, call: str, words: str) -> None:
    installation.immich.broken.add(call)
    try:
        status, body, _ = installation.post("/api/search/smart", json.dumps({"query": words}).encode(), ANNA)
    finally:
        installation.immich.broken.clear()
    assert (status, json.loads(body)["message"]) == (500, "Internal server error")


def test_only_credentials_go_along(installation: Installation) -> None:
    before = len(installation.immich.requests)
    headers = {
        **ANNA,
        "authorization": "Bearer anna-token",
        "x-secret": "hunter2",
        "user-agent": "phone",
        "x-forwarded-for": "1",
    }
    installation.post("/api/search/smart", b'{"query":"ocr:menu"}', headers)
    for _, sent, _ in installation.immich.requests[before:]:
        assert sent["cookie"] == ANNA["cookie"]
        assert sent["authorization"] == "Bearer anna-token"
        assert not {"x-secret", "x-forwarded-for"} & set(sent)
        assert sent["accept-encoding"] == "identity"
        assert "phone" not in sent.values()


def test_the_query_string_goes_along(installation: Installation) -> None:
    found = installation.post("/api/search/smart?apiKey=anna-token", b'{"query":"ocr:menu"}', {})
    assert found[0] == 200
    assert json.loads(found[1])["assets"]["items"]


def test_a_circle_is_seen(installation: Installation) -> None:
    assert installation.post("/api/search/smart", b'{"query":"x"}', {**ANNA, "x-immich-ml-cn-gateway": "1"})[0] == 508


def test_a_body_of_more_than_a_mebibyte_is_refused(installation: Installation) -> None:
    assert installation.post("/api/search/smart", b" " * (1 << 20) + b"{}", ANNA)[0] == 413


@pytest.mark.parametrize(("way", "query"), list(product(("late", "broken"), ("ocr:發票", "menu"))))
def test_without_what_we_add_immichs_plain_answer_is_given(installation: Installation, way: str, query: str) -> None:
    """The smart call with text fails or is late; the metadata call cannot be told apart by form, so it stays."""
    if way == "late":
        installation.immich.delay_s["smart+ocr"] = 5.0
    else:
        installation.immich.broken.add("smart+ocr")
    try:
        pages = installation.pages("smart", {"query": query, "size": 100}, ANNA)
    finally:
        installation.immich.delay_s.clear()
        installation.immich.broken.clear()
    shown = flat(pages)
    if query == "menu":
        assert shown == [photo.id for photo in installation.immich.found("smart", "anna", {"query": "menu"})]
    else:
        assert shown == with_text(installation, "anna", "发票", "發票")


def test_nothing_of_the_caller_is_in_the_log(installation: Installation) -> None:
    for secret in ("anna-token", "bert-token", "hunter2"):
        assert secret not in installation.server.log


def test_immich_that_cannot_be_reached_is_502_and_says_what_to_look_at(tmp_path: Path) -> None:
    with RunningServer(tmp_path, MACHINE_LEARNING_IMMICH_URL="http://127.0.0.1:9") as server:
        installation = Installation(library(0), server)
        status, body, _ = installation.post("/api/search/smart", b'{"query":"x"}', ANNA)
        assert status == 502
        assert "MACHINE_LEARNING_IMMICH_URL" in json.loads(body)["detail"]


def test_without_an_address_there_is_no_such_route(tmp_path: Path) -> None:
    with RunningServer(tmp_path) as server:
        assert Installation(library(0), server).post("/api/search/smart", b"{}", ANNA)[0] == 404
