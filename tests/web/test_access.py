"""The optional key: whatever is asked for needs it but /ping, and no log shows it."""

import json
import logging
from collections.abc import Iterator, Mapping

import pytest
from server import CONTENT_TYPE, TEXTUAL, Client, RunningServer, fill_cache, predict_form

PLAIN = "plain-key"
MT_KEY = "the-other-key"
BODY = predict_form(TEXTUAL, text="cat")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    environ = {
        "MACHINE_LEARNING_API_KEY": PLAIN,
        "API_AUTH_KEY": MT_KEY,
        "IMMICH_LOG_LEVEL": "debug",
        "MACHINE_LEARNING_ROOT_PATH": "/ml",
    }
    with RunningServer(fill_cache(tmp_path_factory.mktemp("cache")), **environ) as running:
        yield running
        assert PLAIN not in running.log
        assert MT_KEY not in running.log
        assert "Traceback" not in running.log


def post(client: Client, path: str, headers: Mapping[str, str]) -> int:
    return client.request("POST", path, BODY, {"content-type": CONTENT_TYPE, **headers}).status


ADMITTED: dict[str, tuple[str, dict[str, str]]] = {
    "header": ("/predict", {"x-api-key": PLAIN}),
    "MT Photos' header": ("/predict", {"api-key": PLAIN}),
    "bearer": ("/predict", {"authorization": f"Bearer {PLAIN}"}),
    "bearer in lower case": ("/predict", {"Authorization": f"bearer {PLAIN}"}),
    "query": (f"/predict?key={PLAIN}", {}),
    "path, as Immich 3 can be told": (f"/key/{PLAIN}/predict", {}),
    "path below a sub-path": (f"/ml/key/{PLAIN}/predict", {}),
    "path before a sub-path": (f"/key/{PLAIN}/ml/predict", {}),
    "one of two": (f"/predict?key=wrong&key={PLAIN}", {}),
    "MT Photos' key": ("/predict", {"api-key": MT_KEY}),
}
REFUSED: dict[str, tuple[str, dict[str, str]]] = {
    "none": ("/predict", {}),
    "wrong": ("/predict", {"x-api-key": "wrong"}),
    "empty": ("/predict", {"x-api-key": ""}),
    "a beginning": ("/predict", {"x-api-key": PLAIN[:-1]}),
    "more": ("/predict", {"x-api-key": PLAIN + "x"}),
    "latin letters": ("/predict", {"x-api-key": "ñ\xff"}),
    "basic": ("/predict", {"authorization": f"Basic {PLAIN}"}),
    "empty query": ("/predict?key=", {}),
    "query that is no UTF-8": ("/predict?key=%ff%00", {}),
    "wrong path": ("/key/wrong/predict", {}),
    "empty path": ("/key//predict", {}),
    "path without an end": ("/key/", {}),
    "bytes in the path": ("/key/%ff/predict", {}),
    "sub-path": ("/ml/predict", {}),
    "wrong path below a sub-path": ("/ml/key/wrong/predict", {}),
}


@pytest.mark.parametrize("case", ADMITTED)
def test_who_brings_the_key_is_served(client: Client, case: str) -> None:
    assert post(client, *ADMITTED[case]) == 200


@pytest.mark.parametrize("case", REFUSED)
def test_who_does_not_is_refused(client: Client, case: str) -> None:
    path, headers = REFUSED[case]
    reply = client.request("POST", path, BODY, {"content-type": CONTENT_TYPE, **headers})
    assert (reply.status, reply.json) == (401, {"detail": "Invalid API key"})


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/nothing", "/face/check", "/ml/status"])
def test_everything_needs_it(client: Client, path: str) -> None:
    assert client.get(path).status == 401
    assert client.get(f"{path}?key={PLAIN}").status in (200, 404)


@pytest.mark.parametrize("path", ["/ping", "/ml/ping", f"/key/{PLAIN}/ping"])
def test_but_ping(client: Client, path: str) -> None:
    assert client.get(path).body == b"pong"


def test_a_wrong_key_in_the_address_shows_in_immichs_health_check(client: Client) -> None:
    assert client.get("/key/wrong/ping").status == 401


def test_without_a_key_nobody_is_asked(tmp_path_factory: pytest.TempPathFactory) -> None:
    with RunningServer(tmp_path_factory.mktemp("none")) as running, running.client() as client:
        assert client.get("/status").status == 200
        assert client.get("/key/x/ping").status == 404


def test_json_logs_with_the_number_and_time_of_each_request(tmp_path_factory: pytest.TempPathFactory) -> None:
    environ = {"MACHINE_LEARNING_LOG_JSON": "true", "IMMICH_LOG_LEVEL": "debug"}
    with RunningServer(fill_cache(tmp_path_factory.mktemp("json")), **environ) as running:
        with running.client() as client:
            client.post(BODY)
            client.predict({}, text="cat")
        running.stop()
        entries = [json.loads(line) for line in running.log.splitlines()]
    refusal = next(entry for entry in entries if "→ 422" in entry["message"])
    assert refusal["level"] == logging.getLevelName(logging.WARNING).lower()
    timed = [entry["request"] for entry in entries if entry["message"].endswith(" ms")]
    assert timed == ["r1", "r2"]
    assert refusal["request"] == "r2"
    assert all(set(entry) >= {"time", "level", "logger", "message"} for entry in entries)
