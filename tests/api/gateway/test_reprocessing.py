"""One photo again, with a real Redis and the real bullmq on the other side."""

import asyncio
import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fake_immich import FakeImmich, Photo
from server import RunningServer, free_port
from serving_fakes import until

from immich_ml_cn.api.gateway.asset_jobs import MAX_ASSETS, refreshed_assets
from immich_ml_cn.api.gateway.reprocessing import JOBS, Outcome, Part, Reprocessing, asset_ids
from immich_ml_cn.cli import main
from immich_ml_cn.errors import UpstreamFailed

REDIS = shutil.which("redis-server")
with_redis = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed (apt install redis-server)")

OWN, OTHERS, FOREIGN = (f"{digit * 8}-1111-4111-8111-{digit * 12}" for digit in "abc")
PHOTOS = [Photo(OWN, "anna", "", "2024"), Photo(OTHERS, "bert", "", "2024"), Photo(FOREIGN, "carl", "", "2024")]
ANNA = {"cookie": "immich_access_token=anna-token", "content-type": "application/json"}


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([str(REDIS), *options], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while subprocess.run(["redis-cli", "-p", str(port), "ping"], capture_output=True).stdout != b"PONG\n":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


async def take(url: str, count: int) -> list[tuple[str, str, Any]]:
    """The first `count` jobs that Immich's workers would be given: queue, name, data; they are done at the end."""
    from bullmq import Worker

    taken: list[tuple[str, str, Any]] = []
    done: list[Any] = []

    def worker(queue: str) -> Any:
        async def process(job: Any, token: str) -> None:
            taken.append((queue, job.name, job.data))

        made = Worker(queue, process, {"connection": url, "prefix": "immich_bull"})
        made.on("completed", lambda job, result: done.append(job))
        return made

    workers = [worker(queue) for queue, _ in JOBS.values()]
    await until(lambda: len(done) >= count)
    await asyncio.gather(*map(end, workers))
    return sorted(taken)


async def end(worker: Any) -> None:
    """Close a worker; one that waits for a job for ever is left to the end of the process."""
    with suppress(Exception):
        async with asyncio.timeout(2):
            await worker.close(force=True)


@with_redis
@pytest.mark.anyio
async def test_immichs_workers_are_given_its_own_jobs(redis_url: str) -> None:
    reprocessing = Reprocessing(redis_url)
    jobs = await reprocessing.add([OWN], list(Part))
    assert [await reprocessing.outcome(job) for job in jobs] == [(Outcome.WAITING, "")] * 3
    assert await take(redis_url, 3) == [
        ("faceDetection", "AssetDetectFaces", {"id": OWN}),
        ("ocr", "Ocr", {"id": OWN}),
        ("smartSearch", "SmartSearch", {"id": OWN}),
    ]
    assert [await reprocessing.outcome(job) for job in jobs] == [(Outcome.DONE, "")] * 3
    await reprocessing.close()


@with_redis
@pytest.mark.anyio
async def test_a_job_that_failed_says_why(redis_url: str) -> None:
    from bullmq import Worker

    async def process(job: Any, token: str) -> None:
        raise RuntimeError("no preview")

    reprocessing = Reprocessing(redis_url)
    (job,) = await reprocessing.add([OWN], [Part.OCR])
    worker = Worker("ocr", process, {"connection": redis_url, "prefix": "immich_bull"})
    found = await reprocessing.outcome(job)
    for _ in range(600):
        if found[0] is not Outcome.WAITING:
            break
        await asyncio.sleep(0.05)
        found = await reprocessing.outcome(job)
    assert found == (Outcome.FAILED, "no preview")
    await end(worker)
    await reprocessing.close()


@pytest.mark.anyio
async def test_a_redis_that_is_gone_is_named(tmp_path: Path) -> None:
    reprocessing = Reprocessing("redis://:hunter2@127.0.0.1:9")
    with pytest.raises(UpstreamFailed, match="MACHINE_LEARNING_IMMICH_REDIS_URL") as caught:
        await reprocessing.add([OWN], [Part.OCR])
    assert "hunter2" not in str(caught.value)
    await reprocessing.close()


def refresh(server: RunningServer, document: Any) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/api/assets/jobs", json.dumps(document).encode(), ANNA)
    status = connection.getresponse().status
    connection.close()
    return status


@with_redis
def test_refresh_faces_makes_text_and_embedding_again_of_own_photos_only(redis_url: str, tmp_path: Path) -> None:
    immich = FakeImmich(PHOTOS, {"anna-token": "anna"}, partners={"anna": "bert"})
    document = {"assetIds": [OWN, OTHERS, FOREIGN], "name": "refresh-faces"}
    with (
        immich.running(),
        RunningServer(
            tmp_path,
            MACHINE_LEARNING_IMMICH_URL=f"http://127.0.0.1:{immich.port}",
            MACHINE_LEARNING_IMMICH_REDIS_URL=redis_url,
        ) as server,
    ):
        assert refresh(server, {**document, "name": "refresh-metadata"}) == 204
        assert refresh(server, document) == 204
        assert asyncio.run(take(redis_url, 2)) == [
            ("ocr", "Ocr", {"id": OWN}),
            ("smartSearch", "SmartSearch", {"id": OWN}),
        ]
        assert [body for call, _, body in immich.requests if call == "jobs"][-1] == document
        assert "anna-token" not in server.log


def again(server: RunningServer, document: Any, headers: Mapping[str, str] = ANNA) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/again", json.dumps(document).encode(), dict(headers))
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


@with_redis
def test_the_page_makes_parts_of_an_own_photo_again(redis_url: str, tmp_path: Path) -> None:
    immich = FakeImmich(PHOTOS, {"anna-token": "anna"}, partners={"anna": "bert"})
    with (
        immich.running(),
        RunningServer(
            tmp_path,
            MACHINE_LEARNING_IMMICH_URL=f"http://127.0.0.1:{immich.port}",
            MACHINE_LEARNING_IMMICH_REDIS_URL=redis_url,
            MACHINE_LEARNING_API_KEY="our own key",
        ) as server,
    ):
        link = f"https://photos.example/photos/{OWN}"
        assert again(server, {"photo": link, "parts": ["ocr", "faces"]}) == (202, {"photo": OWN, "jobs": 2})
        assert {name for _, name, _ in asyncio.run(take(redis_url, 2))} == {"Ocr", "AssetDetectFaces"}
        assert again(server, {"photo": OTHERS, "parts": ["ocr"]})[0] == 403
        assert again(server, {"photo": OWN, "parts": ["ocr"]}, {"content-type": "application/json"})[0] == 403
        assert again(server, {"photo": OWN, "parts": ["title"]})[0] == 422
        assert again(server, {"photo": OWN, "parts": []})[0] == 422
        assert again(server, {"photo": "nothing", "parts": ["ocr"]})[0] == 422
        assert again(server, {"photo": OWN, "parts": ["ocr"]}, {**ANNA, "content-type": "text/plain"})[0] == 415


def test_without_redis_immich_is_answered_at_once(tmp_path: Path) -> None:
    immich = FakeImmich(PHOTOS, {"anna-token": "anna"})
    with (
        immich.running(),
        RunningServer(
            tmp_path,
            MACHINE_LEARNING_IMMICH_URL=f"http://127.0.0.1:{immich.port}",
            MACHINE_LEARNING_IMMICH_REDIS_URL="redis://127.0.0.1:9",
        ) as server,
    ):
        assert refresh(server, {"assetIds": [OWN], "name": "refresh-faces"}) == 204
        deadline = time.monotonic() + 20
        while "MACHINE_LEARNING_IMMICH_REDIS_URL" not in server.log:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("body", "assets"),
    [
        ({"assetIds": [OWN, OWN, "x"], "name": "refresh-faces"}, (OWN,)),
        ({"assetIds": [OWN], "name": "transcode-video"}, ()),
        ({"assetIds": OWN, "name": "refresh-faces"}, ()),
        ({"assetIds": [1], "name": "refresh-faces"}, ()),
        ([], ()),
    ],
)
def test_which_assets_are_refreshed(body: Any, assets: tuple[str, ...]) -> None:
    assert refreshed_assets(json.dumps(body).encode()) == assets


def test_no_request_queues_without_bound() -> None:
    many = [f"{number:08x}-1111-4111-8111-111111111111" for number in range(MAX_ASSETS + 5)]
    assert len(refreshed_assets(json.dumps({"assetIds": many, "name": "refresh-faces"}).encode())) == MAX_ASSETS


def test_ids_and_links_are_understood() -> None:
    album = "0a1b2c3d-1111-4111-8111-111111111111"
    link = f"https://photos.example/albums/{album}/photos/{OWN.upper()}?at=1"
    assert asset_ids(f"{OWN} {link} nothing") == [OWN, OWN]


@with_redis
def test_the_command_queues_waits_and_says_what_happened(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MACHINE_LEARNING_IMMICH_REDIS_URL", redis_url)
    assert main(["reprocess", OWN, "--ocr", "--wait", "0"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "1 jobs queued in Immich",
        f"{OWN} ocr: still waiting, Immich goes on with it",
    ]


def test_the_command_names_what_is_not_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("MACHINE_LEARNING_IMMICH_REDIS_URL", raising=False)
    assert main(["reprocess", OWN]) == 2
    assert "MACHINE_LEARNING_IMMICH_REDIS_URL is not set" in capsys.readouterr().err
    monkeypatch.setenv("MACHINE_LEARNING_IMMICH_REDIS_URL", "redis://127.0.0.1:9")
    assert main(["reprocess", "nonsense"]) == 2
    assert "every ASSET" in capsys.readouterr().err
