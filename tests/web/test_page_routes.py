"""What only the page asks for: its files, the settings, a model that failed, what the text index finds."""

import http.client
import json
from typing import Any

import pytest
from server import OCR_TASK, SMALL, Client, RunningServer, predict_form

MISSING = {"facial-recognition": {"detection": {"modelName": "antelopev2"}}}
KEY = "facial-recognition/antelopev2/detection"


def post(server: RunningServer, body: bytes, content_type: str = "application/json") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/models/load", body, {"content-type": content_type})
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    return answer.status, found


def test_a_model_that_failed_is_tried_again_when_a_person_asks(server: RunningServer, client: Client) -> None:
    assert client.post(predict_form(MISSING, SMALL)).status == 503
    failed = client.get("/status").json["models"][KEY]
    assert failed["state"] == "failed"
    assert "antelopev2" in failed["error"]
    assert post(server, json.dumps({"model": KEY}).encode()) == (202, {"model": KEY})


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"model": "nobody/asked/for"}', "application/json", 404),
        (b'{"model": 1}', "application/json", 422),
        (b"{", "application/json", 422),
        (b'{"model": "x"}', "text/plain", 415),
        (b" " * 5000, "application/json", 413),
    ],
)
def test_what_cannot_be_loaded_is_refused(server: RunningServer, body: bytes, content_type: str, status: int) -> None:
    assert post(server, body, content_type)[0] == status


@pytest.mark.parametrize("name", ["../app.py", "nothing.js", "%2e%2e/app.py", ""])
def test_only_its_own_files_are_served(client: Client, name: str) -> None:
    assert client.get(f"/page/{name}").status == 404


def test_its_files_are_locked_to_this_server(client: Client) -> None:
    reply = client.get("/page/main.js")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/javascript")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_photos_are_counted_by_the_minute(client: Client) -> None:
    before = sum(minute["photos"] for minute in client.get("/status").json["lastHour"])
    assert client.post(predict_form(OCR_TASK, SMALL)).status == 200
    assert sum(minute["photos"] for minute in client.get("/status").json["lastHour"]) == before + 1


def test_a_search_needs_words(client: Client) -> None:
    assert client.get("/search").status == 404
    assert client.get("/search?query=nothing").json["matches"] == []
