"""`immich-ml-cn doctor`: what it finds, what it advises, and its exit code."""

import argparse
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from server import RunningServer, fill_cache

from immich_ml_cn import cli
from immich_ml_cn.commands.doctor import Finding, Verdict, examine, unreachable
from immich_ml_cn.messages import Translator
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.kinds import BASES


def found(cache: Path, *, unreached: str = "", **values: Any) -> dict[str, Finding]:
    settings = Settings(**{"cache_folder": cache, "provider": "cpu", **values})
    return {finding.subject: finding for finding in examine(settings, lambda address: unreached)}


def test_a_sound_installation(tmp_path: Path) -> None:
    findings = found(tmp_path, api_key="k")
    assert not [finding for finding in findings.values() if finding.verdict is Verdict.BAD]
    assert {"device", "libraries", "computer", "cache", "disk", "access"} <= set(findings)
    assert {f"source {kind.value}" for kind in BASES} <= set(findings)
    assert "ONNX Runtime" in findings["device"].found
    assert "pillow" in findings["libraries"].found
    assert findings["cache"].found.endswith("0 model files")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = found(tmp_path / "file" / "cache")["cache"]
    assert cache.verdict is Verdict.BAD
    assert str(os.getuid()) in cache.advice
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_nothing_is_left_in_the_cache(tmp_path: Path) -> None:
    found(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is a GPU")  # noqa: PTH110
def test_cuda_demanded_where_there_is_none(tmp_path: Path) -> None:
    device = found(tmp_path, provider="cuda")["device"]
    assert device.verdict is Verdict.BAD
    assert "CUDA cannot be used" in device.found
    assert device.advice


def test_sources_that_cannot_be_reached_matter_where_no_model_is_here(tmp_path: Path) -> None:
    findings = found(tmp_path, unreached="no route")
    assert "no route" in findings["source huggingface"].found
    assert findings["source huggingface"].verdict is Verdict.NOTE
    assert findings["sources"].verdict is Verdict.BAD
    assert "HTTPS_PROXY=" in findings["sources"].paste
    assert "source mirror" in findings
    fill_cache(tmp_path)
    assert found(tmp_path, unreached="no route")["sources"].verdict is Verdict.NOTE


def test_one_source_that_answers_is_enough(tmp_path: Path) -> None:
    def reach(address: str) -> str:
        return "" if "modelscope" in address else "no route"

    verdicts = [finding.verdict for finding in examine(Settings(cache_folder=tmp_path, provider="cpu"), reach)]
    assert Verdict.BAD not in verdicts


def test_the_way_from_immich(tmp_path: Path) -> None:
    route = "the way from Immich"
    assert "only this machine" in found(tmp_path, host="127.0.0.1")[route].found
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert found(tmp_path, port=port)[route].paste == "immich-ml-cn serve"
    with RunningServer(tmp_path) as server:
        running = found(tmp_path, port=server.port)[route]
    assert running.verdict is Verdict.GOOD
    assert running.found.endswith(f":{server.port}")


def test_offline_nobody_is_asked(tmp_path: Path) -> None:
    settings = Settings(cache_folder=tmp_path, provider="cpu", hf_hub_offline=True)
    findings = {finding.subject: finding for finding in examine(settings, lambda address: pytest.fail(address))}
    assert "HF_HUB_OFFLINE" in findings["sources"].found


def test_mirrors_are_asked_in_the_place_of_the_usual_hosts(tmp_path: Path) -> None:
    asked: list[str] = []

    def reach(address: str) -> str:
        asked.append(address)
        return ""

    list(examine(Settings(cache_folder=tmp_path, provider="cpu", hf_endpoint="https://hf-mirror.example"), reach))
    assert "https://hf-mirror.example" in asked
    assert "https://huggingface.co" not in asked


def test_an_address_is_reached_or_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert unreachable(f"http://127.0.0.1:{port}") == ""
        thread.join()
    assert "refused" in unreachable(f"http://127.0.0.1:{port}")
    assert unreachable("nonsense")


@pytest.mark.parametrize(("cache", "code"), [("filled", 0), ("file/cache", 1)])
def test_the_command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    cache: str,
    code: int,
) -> None:
    (tmp_path / "file").write_text("")
    fill_cache(tmp_path / "filled")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MACHINE_LEARNING_PROVIDER", "cpu")
    monkeypatch.setenv("MACHINE_LEARNING_CACHE_FOLDER", str(tmp_path / cache))
    options: argparse.Namespace = cli.parser(Translator()).parse_args(["doctor"])
    assert options.command(Settings.from_env(), options) == code
    text = capsys.readouterr().out
    assert ("bad   cache: " in text) == bool(code)
    assert ("      → " in text) is True
    options = cli.parser(Translator()).parse_args(["doctor", "--json"])
    assert options.command(Settings.from_env(), options) == code
    report = json.loads(capsys.readouterr().out)
    assert {finding["subject"] for finding in report["findings"]} >= {"device", "cache", "disk"}
