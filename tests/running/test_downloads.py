"""Models arrive by themselves: the running server against a local hub that behaves like Hugging Face."""

from pathlib import Path
from threading import Event, Thread

import pytest
from clip_models import cosine
from hub_server import Page, Site
from server import CLIP, FACES, OCR_TASK, ROOT, Reply, RunningServer, fill_cache, wait_until

TEXT_TASK = {"clip": {"textual": {"modelName": CLIP}}}
SAMPLE = ROOT / "docs" / "sample.jpg"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub offers, laid out as a cache."""
    return fill_cache(tmp_path_factory.mktemp("models"))


def offer(site: Site, models: Path, task: str, name: str) -> dict[str, Page]:
    """Serve a model of the cache `models` as Immich's own repository; its pages by file name."""
    folder = models / task / name
    pages = {str(path.relative_to(folder)): Page(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    site.hub(f"immich-app/{name}", pages)
    return pages


def online(cache: Path, site: Site, **environ: str) -> RunningServer:
    return RunningServer(cache, HF_HUB_OFFLINE="0", HF_ENDPOINT=site.base, **environ)


def test_the_first_request_fetches_and_is_answered(site: Site, models: Path, tmp_path: Path) -> None:
    """The same embedding as from a cache that was filled by hand, and nothing is fetched twice."""
    offer(site, models, "clip", CLIP)
    with RunningServer(tmp_path / "by-hand", MACHINE_LEARNING_CACHE_FOLDER=str(models)) as server:
        expected = server.predict(TEXT_TASK, text="cat").embedding
    cache = tmp_path / "empty"
    with online(cache, site) as server:
        assert cosine(server.predict(TEXT_TASK, text="cat").embedding, expected) > 0.999999
        assert f"fetched clip/{CLIP}/textual from 127.0.0.1" in server.log
    count = len(site.requests)
    with online(cache, site) as server:
        assert server.predict(TEXT_TASK, text="cat").status == 200
    assert len(site.requests) == count
    assert not (cache / "clip" / CLIP / "visual").exists(), "the half nobody asked for stays away"


def test_a_slow_model_is_503_while_others_answer_and_then_arrives(site: Site, models: Path, tmp_path: Path) -> None:
    pages = offer(site, models, "clip", CLIP)
    graph = pages["textual/model.onnx"]
    graph.gate = rest = Event()
    with online(tmp_path, site, MACHINE_LEARNING_MODEL_WAIT="1") as server:
        assert server.predict(TEXT_TASK, text="cat").status == 503
        wait_until(lambda: site.downloads(graph))
        reply = server.predict(TEXT_TASK, text="cat")
        assert reply.status == 503
        assert int(reply.headers["retry-after"]) >= 1
        assert "textual/model.onnx" in reply.detail
        assert " % of " in reply.detail
        assert server.predict_once_loaded(OCR_TASK, SAMPLE.read_bytes()).status == 200
        assert server.predict(TEXT_TASK, text="cat").status == 503
        rest.set()
        server.wait_for_log(f"loaded clip/{CLIP}/textual")
        assert server.predict(TEXT_TASK, text="cat").status == 200


def test_each_failed_request_logs_one_line_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    with online(tmp_path, site) as server:
        replies = [server.predict(TEXT_TASK, text="cat") for _ in range(2)]
        assert [reply.status for reply in replies] == [503, 503]
        lines = [line for line in server.log.splitlines() if "does not have it (404)" in line]
    assert len(lines) == 2
    assert [path.name for path in (tmp_path / "clip").rglob("*")] == [f".{CLIP}.lock"]


def test_a_damaged_file_is_set_aside_and_fetched_again_once(site: Site, models: Path, tmp_path: Path) -> None:
    offer(site, models, "facial-recognition", FACES)
    broken = tmp_path / "facial-recognition" / FACES / "detection" / "model.onnx"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"half a mo")
    task = {"facial-recognition": {"detection": {"modelName": FACES}}}
    with online(tmp_path, site) as server:
        reply = server.predict(task, SAMPLE.read_bytes())
        assert reply.status == 200, reply.body
        assert "is set aside as model.onnx.broken-1 and fetched again" in server.log
        assert "Traceback" not in server.log
    assert (broken.parent / "model.onnx.broken-1").read_bytes() == b"half a mo"


def test_a_file_that_arrives_damaged_twice_stays_and_is_named(site: Site, models: Path, tmp_path: Path) -> None:
    pages = offer(site, models, "facial-recognition", FACES)
    pages = {name: Page(b"no graph" * 200) if name.startswith("detection/") else page for name, page in pages.items()}
    site.hub(f"immich-app/{FACES}", pages)
    task = {"facial-recognition": {"detection": {"modelName": FACES}}}
    with online(tmp_path, site) as server:
        reply = server.predict(task, SAMPLE.read_bytes())
    assert reply.status == 503
    assert "detection/model.onnx cannot be loaded" in reply.detail
    folder = tmp_path / "facial-recognition" / FACES / "detection"
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.onnx.broken-1"]


def test_with_every_source_unreachable_ocr_answers_and_the_rest_says_what_to_do(tmp_path: Path) -> None:
    """An address that nobody listens on stands for all three sources."""
    nobody = "http://127.0.0.1:9"
    sources = f"huggingface={nobody},modelscope={nobody},github={nobody}"
    with RunningServer(tmp_path, HF_HUB_OFFLINE="0", MACHINE_LEARNING_MODEL_SOURCE=sources) as server:
        ocr = {"ocr": {kind: {"modelName": "PP-OCRv5_mobile"} for kind in ("detection", "recognition")}}
        reply = server.predict(ocr, SAMPLE.read_bytes())
        assert reply.status == 200
        assert "山间音乐会" in reply.json["ocr"]["text"]
        warnings = [line for line in server.log.splitlines() if "answers in its place" in line]
        assert len(warnings) == 2
        for component in ("detection", "recognition"):
            assert any(
                f"PP-OCRv5_mobile/{component}" in line and f"PP-OCRv6_small/{component}" in line for line in warnings
            )
        _names_what_answers(server)
        korean = {"ocr": {kind: {"modelName": "KOREAN__PP-OCRv5_mobile"} for kind in ("detection", "recognition")}}
        reply = server.predict(korean, SAMPLE.read_bytes())
        assert reply.status == 503, "the Chinese recogniser would answer Korean with wrong text"
        assert "KOREAN__PP-OCRv5_mobile/recognition" in reply.detail
        reply = server.predict({"clip": {"textual": {"modelName": "ViT-B-32__openai"}}}, text="海边的日落")
        assert reply.status == 503
        assert "set MACHINE_LEARNING_MODEL_SOURCE" in reply.detail
        assert "place " in reply.detail


def _names_what_answers(server: RunningServer) -> None:
    """The model that was asked for is not ready, and what is counted is what answered."""
    with server.client() as client:
        models = client.request("GET", "/status").json["models"]
        metrics = client.request("GET", "/metrics").body.decode()
    wanted, bundled = "ocr/PP-OCRv5_mobile/recognition", "ocr/PP-OCRv6_small/recognition (bundled)"
    assert models[wanted]["state"] == "failed"
    assert models[wanted]["fallback"] == bundled
    assert models[bundled]["state"] == "ready"
    assert bundled in metrics
    assert {line.split("{")[0] for line in metrics.splitlines() if wanted in line} == {"immich_ml_fetches_total"}


def test_requests_that_wait_for_one_model_share_one_fetch(site: Site, models: Path, tmp_path: Path) -> None:
    pages = offer(site, models, "clip", CLIP)
    pages["textual/model.onnx"].trickle = (len(pages["textual/model.onnx"].data) // 4, 0.1)
    replies: list[Reply] = []
    with online(tmp_path, site) as server:
        clients = [Thread(target=lambda: replies.append(server.predict(TEXT_TASK, text="cat"))) for _ in range(8)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert [reply.status for reply in replies] == [200] * 8
        assert server.log.count("loading clip/") == 1
    resolved = [request.path for request in site.requests if request.path.endswith("textual/model.onnx")]
    assert len([path for path in resolved if "/resolve/" in path]) == 1
