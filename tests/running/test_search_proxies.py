"""The snippets of deploy/search with real proxies: search works with us, and without us."""

import http.client
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from fake_immich import FakeImmich, Photo
from server import ROOT, RunningServer, free_port

DEPLOY = ROOT / "deploy" / "search"
SLOW_S = 25.0
"""Longer than any client here waits."""
ANNA = {"cookie": "immich_access_token=anna-token", "content-type": "application/json"}
PATH = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/bin"
"""Caddy comes with the tests' environment, the others with Debian."""
PHOTOS = [
    Photo(f"{number:08x}-1111-4111-8111-111111111111", "anna", "menu" * (number % 2), "2024") for number in range(9)
]


def addresses(text: str, port: int, ml: int, immich: int) -> str:
    """A snippet with this machine's addresses instead of the containers'."""
    text = text.replace("immich-machine-learning:3003", f"127.0.0.1:{ml}")
    text = text.replace("immich-server:2283", f"127.0.0.1:{immich}")
    return text.replace(":2283 {", f":{port} {{").replace("bind :2283", f"bind 127.0.0.1:{port}")


def nginx(folder: Path, port: int, ml: int, immich: int) -> list[str]:
    """The snippet in the smallest server block; the rest of Immich goes straight there."""
    inside = addresses((DEPLOY / "nginx.conf").read_text(), port, ml, immich)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}} http {{ access_log off; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port};\n{inside}\n"
        f"location / {{ proxy_pass http://127.0.0.1:{immich}; }} }} }}\n"
    )
    return ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]


def caddy(folder: Path, port: int, ml: int, immich: int) -> list[str]:
    (folder / "Caddyfile").write_text(addresses((DEPLOY / "Caddyfile").read_text(), port, ml, immich))
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def haproxy(folder: Path, port: int, ml: int, immich: int) -> list[str]:
    (folder / "haproxy.cfg").write_text(addresses((DEPLOY / "haproxy.cfg").read_text(), port, ml, immich))
    return ["haproxy", "-f", str(folder / "haproxy.cfg")]


PROXIES = {"nginx": nginx, "caddy": caddy, "haproxy": haproxy}


@contextmanager
def proxied(name: str, folder: Path, ml: int, immich: int) -> Iterator[int]:
    """A proxy in front of both; its port."""
    port = free_port()
    command = PROXIES[name](folder, port, ml, immich)
    environ = {
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "PATH": PATH,
    }
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                ask(port, "/api/users/me", None)
                break
            except OSError:
                assert process.poll() is None, (folder / "proxy.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def ask(port: int, path: str, document: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    try:
        body = None if document is None else json.dumps(document).encode()
        connection.request("GET" if body is None else "POST", path, body, ANNA)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None
    finally:
        connection.close()


def found(port: int, query: str) -> list[str]:
    status, answer = ask(port, "/api/search/smart", {"query": query})
    assert status == 200, answer
    return [item["id"] for item in answer["assets"]["items"]]


@pytest.mark.parametrize("name", PROXIES)
def test_search_works_with_us_without_us_and_with_a_slow_immich(name: str, tmp_path: Path) -> None:
    if shutil.which(name, path=PATH) is None:
        pytest.skip(f"{name} is not installed (apt install {name})")
    immich = FakeImmich(PHOTOS, {"anna-token": "anna"})
    menus = {photo.id for photo in PHOTOS if photo.text}
    (tmp_path / "cache").mkdir()
    with immich.running():
        address = f"http://127.0.0.1:{immich.port}"
        settings = {"MACHINE_LEARNING_IMMICH_URL": address, "MACHINE_LEARNING_TEXT_SEARCH": "hybrid"}
        with (
            RunningServer(tmp_path / "cache", **settings) as server,
            proxied(name, tmp_path, server.port, immich.port) as port,
        ):
            assert set(found(port, "ocr:menu")) == menus
            assert len(found(port, "menu")) == len(PHOTOS)
            assert ask(port, "/api/assets/jobs", {"assetIds": [], "name": "refresh-faces"})[0] == 204
            immich.delay_s["smart+ocr"] = SLOW_S
            assert len(found(port, "menu")) == len(PHOTOS)
            server.process.kill()
            server.process.wait()
            assert len(found(port, "menu")) == len(PHOTOS)
            assert ask(port, "/api/assets/jobs", {"assetIds": [], "name": "refresh-faces"})[0] == 204
            assert ask(port, "/api/users/me", None) == (200, {"id": "anna"})


def test_all_snippets_name_the_same_paths() -> None:
    paths = ("/api/search/smart", "/api/search/metadata", "/api/assets/jobs")
    for name in ("Caddyfile", "haproxy.cfg", "traefik.yaml"):
        text = (DEPLOY / name).read_text()
        assert all(path in text for path in paths), name
    assert r"^/api/(search/(smart|metadata)|assets/jobs)$" in (DEPLOY / "nginx.conf").read_text()


def test_traefik_fails_over_to_immich() -> None:
    services = yaml.safe_load((DEPLOY / "traefik.yaml").read_text())["http"]["services"]
    failover = services["immich-search"]["failover"]
    assert services[failover["service"]]["loadBalancer"]["servers"] == [{"url": "http://immich-machine-learning:3003"}]
    assert services[failover["fallback"]]["loadBalancer"]["servers"] == [{"url": "http://immich-server:2283"}]
