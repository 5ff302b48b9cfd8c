"""What runs here reports to nobody and leaves nothing outside its cache."""

from pathlib import Path

from server import OCR_TASK, ROOT, RunningServer

from immich_ml_cn.settings.environment import NO_TELEMETRY, switch_telemetry_off

SAMPLE = ROOT / "docs" / "sample.jpg"


def test_the_home_folder_stays_empty(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry would leave a device id and a database of events in ``~/.cache/Microsoft``."""
    home = tmp_path / "home"
    home.mkdir()
    with RunningServer(tmp_path / "cache", HOME=str(home)) as server, server.client() as client:
        assert client.predict(OCR_TASK, SAMPLE.read_bytes()).status == 200
    assert not list(home.rglob("*"))


def test_what_the_user_has_set_stays() -> None:
    environ = {"ORT_DISABLE_TELEMETRY": "0"}
    switch_telemetry_off(environ)
    assert environ == {**NO_TELEMETRY, "ORT_DISABLE_TELEMETRY": "0"}
