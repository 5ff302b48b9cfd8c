"""The command line: versions, wrong settings, a port that is taken."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from server import ROOT, Client, RunningServer, wait_until

from immich_ml_cn import __version__, cli


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "immich_ml_cn", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "IMMICH_HOST": "127.0.0.1", **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"immich-ml-cn {__version__}\n"


def test_the_version_is_shown_whatever_the_settings() -> None:
    answer = command("--version", IMMICH_PORT="nonsense")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"immich-ml-cn {__version__}\n", "")


@pytest.mark.parametrize("arguments", [(), ("serve",)])
def test_a_wrong_value_is_one_line_and_exit_code_2(arguments: tuple[str, ...]) -> None:
    answer = command(*arguments, MACHINE_LEARNING_WORKERS="many")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr == "MACHINE_LEARNING_WORKERS='many' cannot be used: it must be a whole number\n"


@pytest.mark.parametrize(
    ("environ", "chinese"),
    [
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LC_ALL": "zh_CN.UTF-8", "LANG": "en_US.UTF-8"}, True),
        ({"IMMICH_ML_CN_LANGUAGE": "zh", "LANG": "en_US.UTF-8"}, True),
        ({"IMMICH_ML_CN_LANGUAGE": "en", "LANG": "zh_CN.UTF-8"}, False),
        ({"LANG": "C.UTF-8"}, False),
        ({}, False),
    ],
)
def test_the_language_is_that_of_the_setting_or_the_locale(environ: dict[str, str], chinese: bool) -> None:
    answer = command("models", "list", **environ)
    assert ("维度" in answer.stdout) is chinese
    assert answer.returncode == 0


@pytest.mark.parametrize("level", ["warning", '"warning"', "WARN"])
def test_an_environment_that_immich_accepts_starts(tmp_path: Path, level: str) -> None:
    """Of Immich's .env, which its server shares; exit code 2 under `restart: always` would be an endless loop."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {"immich_log_level": level, "IMMICH_PORT": f"'{port}'", "MACHINE_LEARNING_CLIP_ALIAS": "x"}
    server = RunningServer(tmp_path, **environ)
    server.start()
    try:
        wait_until(lambda: answers(port), "the server did not start")
        assert "MACHINE_LEARNING_CLIP_ALIAS is not known and does nothing" in server.log
        assert "INFO" not in server.log
    finally:
        server.process.terminate()
    assert server.process.wait(60) == 0


def answers(port: int) -> bool:
    try:
        with Client(port, timeout=5) as client:
            return client.get("/ping").body == b"pong"
    except OSError:
        return False


def test_an_unknown_command_is_exit_code_2() -> None:
    answer = command("sing")
    assert answer.returncode == 2
    assert "invalid choice: 'sing'" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_whoever_stops_reading_sees_no_traceback(tmp_path: Path) -> None:
    listing = f"{sys.executable} -m immich_ml_cn models list | true"
    environ = {"PATH": os.environ["PATH"], "MACHINE_LEARNING_CACHE_FOLDER": str(tmp_path)}
    ran = subprocess.run(["bash", "-c", listing], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""


def test_a_port_in_use_is_one_clear_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = command(IMMICH_PORT=str(port))
    assert answer.returncode == 1
    critical = [line for line in answer.stderr.splitlines() if "CRITICAL" in line]
    assert len(critical) == 1
    assert critical[0].endswith(f"cannot listen on 127.0.0.1 port {port}: Address already in use")
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "not a host"])
def test_an_address_that_is_not_ours_is_one_clear_line_and_exit_code_1(host: str) -> None:
    answer = command(IMMICH_HOST=host, IMMICH_PORT="0")
    assert answer.returncode == 1
    assert f"cannot listen on {host} port 0: " in answer.stderr
    assert "Traceback" not in answer.stderr


def test_cuda_demanded_where_there_is_none_is_exit_code_1() -> None:
    answer = command(MACHINE_LEARNING_PROVIDER="cuda", IMMICH_PORT="0", CUDA_VISIBLE_DEVICES="")
    assert answer.returncode == 1
    assert "MACHINE_LEARNING_PROVIDER=cuda, but CUDA cannot be used: " in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_the_default_address_takes_ipv4_and_ipv6(tmp_path: Path) -> None:
    with RunningServer(tmp_path, IMMICH_HOST="") as server:
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as connection:
                connection.settimeout(10)
                connection.connect((address, server.port))
                connection.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_the_start_says_what_runs_where(tmp_path: Path) -> None:
    environ = {
        "IMMICH_SOURCE_REF": "abc123",
        "MACHINE_LEARNING_RKNN": "true",
        "MACHINE_LEARNING_CLIP_ALIASES": "none,RN50__openai=chinese-clip-rn50",
    }
    with RunningServer(tmp_path, **environ) as server:
        log = server.log
    assert f"immich-ml-cn {__version__} (abc123), models in {tmp_path}" in log
    assert "MACHINE_LEARNING_RKNN is set but does nothing here: it is for Rockchip acceleration" in log
    assert "CLIP names answered by another model: RN50__openai → chinese-clip-rn50" in log
    assert re.search(r"device: CPU, .*; why: MACHINE_LEARNING_PROVIDER=cpu$", log, flags=re.MULTILINE)
    assert f"listening on http://127.0.0.1:{server.port}" in log
    assert "\x1b" not in log


@pytest.mark.parametrize("level", ["warn", "critical"])
def test_the_log_level_is_honoured(tmp_path: Path, level: str) -> None:
    server = RunningServer(tmp_path, IMMICH_LOG_LEVEL=level, IMMICH_HOST="203.0.113.7")
    server.start()
    assert server.wait() == 1
    assert "INFO" not in server.log
    assert "CRITICAL" in server.log
