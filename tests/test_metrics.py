"""What is counted: histograms, one request through the real server, and the form that Prometheus reads."""

from contextlib import suppress
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from server import CLIP, OCR_TASK, ROOT, SMALL, TEXTUAL, VISUAL, Client, RunningServer, fill_cache
from serving_fakes import Clock

from immich_ml_cn.metrics import MAX_ERRORS, TIMES, Gauge, Metrics, exposition


def test_time_is_counted_however_the_block_ends() -> None:
    clock = Clock()
    metrics = Metrics(clock)
    with suppress(ValueError), metrics.time("decode"):
        clock.now += 3
        raise ValueError
    assert metrics.registry.get_sample_value("immich_ml_decode_seconds_sum", {"model": ""}) == 3


def test_only_the_last_errors_are_kept_the_newest_first() -> None:
    clock = Clock()
    metrics = Metrics(clock)
    for number in range(MAX_ERRORS + 5):
        metrics.record_error(f"error {number}")
        clock.now += 1
    errors = metrics.last_errors()
    assert len(errors) == MAX_ERRORS
    assert errors[0] == {"secondsAgo": 1, "message": f"error {MAX_ERRORS + 4}"}
    assert errors[-1]["message"] == "error 5"


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_exposition_is_read_back_by_prometheus_own_parser() -> None:
    metrics = Metrics()
    metrics.count_request("ocr", 'a "quoted"\nmodel', 200)
    metrics.count_fetch("clip/x", "failed")
    metrics.observe("queue", "m", 0.3)
    gauges = [Gauge("threads", "Threads.", {"": 3.0}), Gauge("queue_length", "Waiting.", {"m": 2.0}, "model")]
    found = samples(exposition(metrics, {"version": "1.2", "provider": "CPU"}, gauges).decode())

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert value("immich_ml_info", version="1.2", provider="CPU") == 1
    assert value("immich_ml_requests_total", task="ocr", model='a "quoted"\nmodel', status="200") == 1
    assert value("immich_ml_fetches_total", model="clip/x", outcome="failed") == 1
    assert value("immich_ml_queue_seconds_bucket", model="m", le="0.2") == 0
    assert value("immich_ml_queue_seconds_bucket", model="m", le="0.5") == 1
    assert value("immich_ml_threads") == 3
    assert value("immich_ml_queue_length", model="m") == 2
    assert not [name for name, _ in found if name.endswith("_created")]


def test_requests_are_counted_by_task_model_and_status(client: Client) -> None:
    key = f"clip/{CLIP}/visual"
    before = samples(client.get("/metrics").body.decode())
    client.predict(VISUAL, SMALL)
    client.predict(VISUAL, b"no picture")
    client.predict({"clip": {"visual": {"modelName": "made-up-by-a-client"}}}, SMALL)
    client.predict({**VISUAL, **OCR_TASK}, (ROOT / "docs" / "sample.jpg").read_bytes())
    reply = client.get("/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    after = samples(reply.body.decode())
    assert b"made-up-by-a-client" not in reply.body

    def grown(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after[key] - before.get(key, 0)

    requests = "immich_ml_requests_total"
    assert grown(requests, task="clip/visual", model=key, status="200") == 2
    assert grown(requests, task="clip/visual", model=key, status="400") == 1
    assert grown(requests, task="clip/visual", model="unknown", status="422") == 1
    assert grown(requests, task="ocr", model="ocr/PP-OCRv6_small/recognition (bundled)", status="200") == 1
    assert grown("immich_ml_responses_total", route="/predict", status="200") == 2
    assert grown("immich_ml_batch_size_count", model=key) == 2
    assert grown("immich_ml_inference_seconds_count", model=key) == 2
    assert grown("immich_ml_queue_seconds_count", model=key) == 2
    assert grown("immich_ml_decode_seconds_count", model="") == 2
    assert grown("immich_ml_measure_seconds_count", model="") == 3
    assert grown("immich_ml_receive_seconds_count", model="") == 4
    assert grown("immich_ml_postprocess_seconds_count", model="ocr/PP-OCRv6_small/detection (bundled)") == 1
    assert after["immich_ml_model_bytes", frozenset({("model", key)})] > 10_000
    assert after["process_resident_memory_bytes", frozenset()] > 10e6
    assert {f"immich_ml_{what}_seconds_sum" for what in TIMES if what != "search"} <= {name for name, _ in after}


def test_addresses_that_clients_make_up_do_not_become_labels(client: Client) -> None:
    for number in range(5):
        client.get(f"/made/up/{number}")
    text = client.get("/metrics").body.decode()
    assert "/made/up" not in text
    assert samples(text)["immich_ml_responses_total", frozenset({("route", "other"), ("status", "404")})] >= 5


def test_the_status_tells_what_runs_here(client: Client) -> None:
    client.predict(TEXTUAL, text="cat")
    status = client.get("/status").json
    assert status["provider"] == "CPUExecutionProvider"
    assert status["runtime"]["onnxruntime"]
    model = status["models"][f"clip/{CLIP}/textual"]
    assert (model["state"], model["leases"], model["waiting"], model["kept"]) == ("ready", 0, 0, False)
    assert 0 <= model["secondsIdle"] < 60
    assert {lane["name"] for lane in status["lanes"]} == {"interactive", "bulk-0"}
    assert status["residentBytes"] > 10e6
    assert status["openFiles"] > 3
    assert isinstance(status["lastErrors"], list)


def test_a_model_that_cannot_be_had_is_in_the_status_with_the_reason(tmp_path: Path) -> None:
    with RunningServer(fill_cache(tmp_path)) as running, running.client() as client:
        assert client.predict({"clip": {"visual": {"modelName": "RN50__openai"}}}, SMALL).status == 503
        model = client.get("/status").json["models"]["clip/chinese-clip-rn50/visual"]
        assert model["state"] == "failed"
        assert "clip/chinese-clip-rn50/visual is not available" in model["error"]
        assert "POST /predict → 503" in client.get("/status").json["lastErrors"][0]["message"]
