"""What people start the server with: compose files beside Immich's own, Kubernetes, systemd, the Dockerfile, CI."""

import configparser
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from server import ROOT, RunningServer

from immich_ml_cn.settings import Settings

SERVICE = "immich-machine-learning"
GRACE_S = Settings().shutdown_timeout_s

IMMICHS_FILE = {
    "services": {
        "immich-server": {"image": "example/immich-server:release"},
        SERVICE: {
            "container_name": "immich_machine_learning",
            "image": "example/immich-machine-learning:release",
            "volumes": ["model-cache:/cache"],
            "env_file": [".env"],
            "restart": "always",
            "healthcheck": {"disable": False},
        },
    },
    "volumes": {"model-cache": None},
}
"""What of Immich's docker-compose.yml meets ours."""

VARIANTS = ["compose.yaml", *(f"deploy/compose.{name}.yaml" for name in ("cuda", "remote", "replicas", "rootless"))]
SHELL_SCRIPTS = [path for path in sorted((ROOT / "scripts").iterdir()) if path.is_file() and not path.suffix]


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def yaml_files() -> list[str]:
    """Those of the project."""
    found = [
        path for pattern in ("*.y*ml", ".*.yaml", "deploy/**/*.yaml", ".github/**/*.yml") for path in ROOT.glob(pattern)
    ]
    return sorted(str(path.relative_to(ROOT)) for path in found)


@pytest.mark.parametrize("path", yaml_files())
def test_every_yaml_file_can_be_read(path: str) -> None:
    documents = list(yaml.safe_load_all((ROOT / path).read_text(encoding="utf-8")))
    assert documents
    assert all(isinstance(document, dict) for document in documents)


# --- compose ---


@pytest.fixture
def compose(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What `docker compose config` makes of Immich's file and others of ours, all in one folder."""
    command = compose_command()
    if command is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed (apt install docker-compose)")

    def configure(*files: Path, alone: bool = False) -> dict[str, Any]:
        (tmp_path / ".env").touch()
        (tmp_path / "docker-compose.yml").write_text(yaml.safe_dump(IMMICHS_FILE))
        names = [] if alone else ["docker-compose.yml"]
        for file in files:
            if file.parent != tmp_path:
                shutil.copy(file, tmp_path)
            names.append(file.name)
        options = [word for name in names for word in ("-f", name)]
        ran = subprocess.run([*command, *options, "config"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        merged: dict[str, Any] = yaml.safe_load(ran.stdout)
        return merged

    return configure


@cache
def compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
        ):
            return command
    return None


@pytest.mark.parametrize("path", VARIANTS)
def test_beside_immichs_file_only_the_machine_learning_changes(
    path: str, compose: Callable[..., dict[str, Any]]
) -> None:
    merged = compose(ROOT / path)
    service = merged["services"][SERVICE]
    assert merged["services"]["immich-server"]["image"] == "example/immich-server:release"
    assert "example/" not in service["image"]
    assert service["container_name"] == "immich_machine_learning"
    assert service["restart"] == "always"
    assert "model-cache" in str(service["volumes"])
    assert set(merged["volumes"]) == {"model-cache"}


@pytest.mark.parametrize("path", VARIANTS)
def test_it_also_starts_alone(path: str, compose: Callable[..., dict[str, Any]]) -> None:
    assert SERVICE in compose(ROOT / path, alone=True)["services"]


@pytest.mark.parametrize("path", VARIANTS)
def test_docker_waits_until_requests_have_ended(path: str) -> None:
    servers = [one for one in load(path)["services"].values() if "immich-ml-cn" in one["image"]]
    assert servers
    for server in servers:
        assert int(server["stop_grace_period"].removesuffix("s")) > GRACE_S


def test_compose_yaml_gets_a_gpu_by_uncommenting_three_lines(
    compose: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    text, count = re.subn(
        r"^    # (?=extends:|  file:|  service:)", "    ", (ROOT / "compose.yaml").read_text(), flags=re.M
    )
    assert count == 3
    shutil.copy(ROOT / "hwaccel.ml.yml", tmp_path)
    (tmp_path / "compose.yaml").write_text(text)
    assert gpus(compose(tmp_path / "compose.yaml")["services"][SERVICE]) == [["gpu"]]


@pytest.mark.parametrize("path", ["deploy/compose.cuda.yaml", "deploy/compose.remote.yaml"])
def test_the_gpu_variants_ask_for_one(path: str) -> None:
    service = load(path)["services"][SERVICE]
    assert gpus(service) == [["gpu"]]
    assert service["image"].endswith(":cuda")


def gpus(service: Any) -> list[list[str]]:
    return [device["capabilities"] for device in service["deploy"]["resources"]["reservations"]["devices"]]


# --- Kubernetes ---


def kubernetes(path: str) -> dict[str, Any]:
    """The objects of a file by kind and name."""
    text = (ROOT / "deploy" / path).read_text(encoding="utf-8")
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in yaml.safe_load_all(text)}


def test_kubernetes_gives_requests_the_time_to_end() -> None:
    pod = kubernetes("kubernetes/base/machine-learning.yaml")["Deployment/immich-ml-cn"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + GRACE_S


def test_kubernetes_probes_ask_for_the_ping() -> None:
    pod = kubernetes("kubernetes/base/machine-learning.yaml")["Deployment/immich-ml-cn"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/ping", "port": "http"}


def test_kubernetes_sets_only_variables_that_exist() -> None:
    known = {item.metadata["variable"] for item in Settings.__dataclass_fields__.values() if item.metadata}
    for path in ("kubernetes/base/machine-learning.yaml", "kubernetes/gpu/gpu.yaml"):
        deployment = kubernetes(path)["Deployment/immich-ml-cn"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert {variable["name"] for variable in container["env"]} <= known


def test_kubernetes_services_find_their_pods() -> None:
    base, proxy = kubernetes("kubernetes/base/machine-learning.yaml"), kubernetes("haproxy/haproxy.yaml")
    front = kubernetes("kubernetes/replicas/service.yaml")
    servers = base["Deployment/immich-ml-cn"]["spec"]["template"]["metadata"]["labels"]
    proxies = proxy["Deployment/immich-ml-haproxy"]["spec"]["template"]["metadata"]["labels"]
    assert base[f"Service/{SERVICE}"]["spec"]["selector"] == servers
    assert proxy["Service/immich-ml-replicas"]["spec"]["selector"] == servers
    assert front[f"Service/{SERVICE}"]["spec"]["selector"] == proxies


@pytest.mark.parametrize("overlay", ["base", "gpu", "replicas"])
def test_kustomize_builds(overlay: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(ROOT / "deploy" / "kubernetes" / overlay)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    kinds = [document["kind"] for document in yaml.safe_load_all(ran.stdout)]
    assert kinds.count("Deployment") == (2 if overlay == "replicas" else 1)


# --- systemd ---


def test_systemd_gives_requests_the_time_to_end() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "deploy" / "systemd" / "immich-ml-cn.service")
    assert int(unit["Service"]["TimeoutStopSec"]) > GRACE_S + 5


# --- the image ---


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_image_has_a_target_for_every_runtime() -> None:
    targets = set(re.findall(r"^FROM runtime AS (\S+)$", dockerfile(), flags=re.MULTILINE))
    assert targets == {"cpu", "cuda", "cuda12", "openvino"}
    for target in targets:
        assert f"scripts/image-environment {target} /opt/venv" in dockerfile()
        assert (ROOT / "requirements" / f"{target}.txt").is_file()


def test_what_the_image_copies_is_not_ignored() -> None:
    wanted = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.*) \S+$", dockerfile(), flags=re.MULTILINE)
    assert copied
    for path in " ".join(copied).split():
        assert (ROOT / path).exists()
        assert any(fnmatch(path, pattern) or path.startswith(f"{pattern}/") for pattern in wanted), path


def test_the_image_drops_only_what_builds() -> None:
    script = (ROOT / "scripts" / "image-environment").read_text(encoding="utf-8")
    (line,) = re.findall(r"uv pip uninstall .*\"\$python\" (.*)$", script, flags=re.MULTILINE)
    dropped = set(line.split())
    for lock in ("cpu", "cuda", "cuda12", "openvino"):
        needed_by = requirers((ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8"))
        for package in dropped:
            builders = needed_by[package] - dropped
            assert builders == {"immich-ml-cn (pyproject.toml:build)"} or not builders, f"{lock}: {package}"


def requirers(lock: str) -> dict[str, set[str]]:
    """Package → who needs it, from the comments that uv writes."""
    found: dict[str, set[str]] = {}
    package = ""
    for line in lock.splitlines():
        if match := re.match(r"([a-z0-9-]+)==", line):
            package = match[1]
            found[package] = set()
        elif match := re.match(r"    #(?: via)?\s+(\S.*)$", line):
            found[package] |= {match[1]} - {"via"}
    return found


@pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_stop_at_the_first_failure(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if not text.startswith("#!/usr/bin/env bash"):
        pytest.skip("not a shell script")
    assert "\nset -euo pipefail\n" in text
    if shutil.which("shellcheck"):
        checked = subprocess.run(
            ["shellcheck", "--severity=warning", str(path)], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout


def health(**environ: str) -> int:
    """The exit code of the image's health check."""
    command = [sys.executable, str(ROOT / "deploy" / "healthcheck.py")]
    return subprocess.run(command, env=environ, capture_output=True, check=False).returncode


@pytest.mark.parametrize("host", ["", "::", "[::]", "0.0.0.0", "127.0.0.1"])
def test_the_image_is_healthy_while_the_server_answers(host: str, server: RunningServer) -> None:
    assert health(IMMICH_HOST=host, IMMICH_PORT=str(server.port)) == 0


def test_the_image_is_unhealthy_where_nobody_answers() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        assert health(IMMICH_PORT=str(listener.getsockname()[1])) == 1


def test_the_image_is_unhealthy_when_the_answer_takes_too_long() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert health(IMMICH_PORT=str(listener.getsockname()[1])) == 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("server"), IMMICH_HOST="0.0.0.0") as running:
        yield running


# --- CI ---


def test_ci_runs_every_python_version_and_builds_every_target() -> None:
    jobs = load(".github/workflows/ci.yml")["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    built = {(one["target"], one["runner"]) for one in jobs["image"]["strategy"]["matrix"]["include"]}
    assert {target for target, _ in built} == {"cpu", "cuda", "cuda12", "openvino"}
    assert ("cpu", "ubuntu-24.04-arm") in built
    assert "secrets." not in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
