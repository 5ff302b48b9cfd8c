"""What people start the server with: compose files beside Immich's own, Kubernetes, systemd, the Dockerfile, CI."""

import configparser
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from server import ROOT, RunningServer

from immich_ml_cn import __version__
from immich_ml_cn.settings import Settings, variables

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

OVERRIDES = [f"deploy/{target}/docker-compose.override.yml" for target in ("cpu", "cuda", "openvino")]
BESIDE = [*OVERRIDES, "deploy/compose.replicas.yaml", "deploy/compose.rootless.yaml"]
ALONE = ["compose.yaml", "deploy/compose.remote.yaml"]
SHELL_SCRIPTS = [path for path in sorted((ROOT / "scripts").iterdir()) if path.is_file() and not path.suffix]


class ComposeLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Knows Compose's own tag for what a file takes away from those before it."""


ComposeLoader.add_constructor("!reset", lambda loader, node: None)


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def yaml_files() -> list[str]:
    """Those of the project."""
    found = [
        path for pattern in ("*.y*ml", ".*.yaml", "deploy/**/*.y*ml", ".github/**/*.yml") for path in ROOT.glob(pattern)
    ]
    return sorted(str(path.relative_to(ROOT)) for path in found)


@pytest.mark.parametrize("path", yaml_files())
def test_every_yaml_file_can_be_read(path: str) -> None:
    documents = list(yaml.load_all((ROOT / path).read_text(encoding="utf-8"), ComposeLoader))
    assert documents
    assert all(isinstance(document, dict) for document in documents)


# --- compose ---


Compose = Callable[..., dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as Immich's documentation makes it."""
    (tmp_path / ".env").write_text("DB_PASSWORD=postgres\n")
    (tmp_path / "docker-compose.yml").write_text(yaml.safe_dump(IMMICHS_FILE))
    return tmp_path


@pytest.fixture
def compose(folder: Path) -> Compose:
    """What Compose makes of the files in the folder, or of those that are named, with variables for it."""

    def configure(*files: str, **environ: str) -> dict[str, Any]:
        options = [word for name in files for word in ("-f", name)]
        command = [str(Path(sys.executable).with_name("docker-compose")), *options, "config"]
        environ = {"PATH": os.environ["PATH"], "HOME": str(folder), **environ}
        ran = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        merged: dict[str, Any] = yaml.safe_load(ran.stdout)
        return merged

    return configure


def only_the_machine_learning_changed(merged: dict[str, Any]) -> dict[str, Any]:
    """The service, after a look at all that has to stay Immich's."""
    service: dict[str, Any] = merged["services"][SERVICE]
    assert merged["services"]["immich-server"]["image"] == "example/immich-server:release"
    assert "example/" not in service["image"]
    assert service["container_name"] == "immich_machine_learning"
    assert service["restart"] == "always"
    assert "model-cache" in str(service["volumes"])
    assert set(merged["volumes"]) == {"model-cache"}
    return service


@pytest.mark.parametrize("path", OVERRIDES)
def test_an_override_beside_immichs_file_is_read_by_itself(path: str, folder: Path, compose: Compose) -> None:
    shutil.copy(ROOT / path, folder)
    service = only_the_machine_learning_changed(compose())
    target = Path(path).parent.name
    assert service["image"] == f"immich-ml-cn:{target}"
    assert service["build"]["target"] == target
    assert service["environment"]["DB_PASSWORD"] == "postgres", "lines of Immich's .env reach the container"


def test_a_proxy_for_search_takes_immichs_port(folder: Path, compose: Compose) -> None:
    shutil.copy(ROOT / "deploy" / "cpu" / "docker-compose.override.yml", folder)
    shutil.copytree(ROOT / "deploy" / "search", folder, dirs_exist_ok=True)
    merged = compose("docker-compose.yml", "docker-compose.override.yml", "compose.search.yaml")
    services = merged["services"]
    assert "ports" not in services["immich-server"]
    assert [port["published"] for port in services["immich-search-proxy"]["ports"]] == ["2283"]
    assert services[SERVICE]["environment"]["MACHINE_LEARNING_IMMICH_URL"] == "http://immich-server:2283"
    assert only_the_machine_learning_changed(merged)["image"] == "immich-ml-cn:cpu"


def test_without_the_override_everything_is_immichs_again(compose: Compose) -> None:
    assert compose()["services"][SERVICE]["image"] == "example/immich-machine-learning:release"


@pytest.mark.parametrize("path", ["deploy/compose.replicas.yaml", "deploy/compose.rootless.yaml"])
def test_a_file_named_beside_immichs_changes_only_the_machine_learning(
    path: str, folder: Path, compose: Compose
) -> None:
    shutil.copytree(ROOT / "deploy", folder / "immich-ml-cn" / "deploy")
    only_the_machine_learning_changed(compose("docker-compose.yml", f"immich-ml-cn/{path}"))


@pytest.mark.parametrize("path", ALONE)
def test_a_file_for_running_alone_publishes_the_port(path: str, folder: Path, compose: Compose) -> None:
    service = compose(str(ROOT / path), BIND="192.168.1.20")["services"][SERVICE]
    assert [(port["host_ip"], port["published"]) for port in service["ports"]] == [("192.168.1.20", "3003")]
    assert service["build"]["context"] == str(ROOT)


def test_the_file_for_running_alone_is_the_trap_that_it_warns_of(folder: Path, compose: Compose) -> None:
    shutil.copy(ROOT / "compose.yaml", folder)
    assert "immich-server" not in compose()["services"]
    assert "Do not put this file beside Immich's" in (ROOT / "compose.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*BESIDE, *ALONE])
def test_one_variable_names_the_image_and_others_name_mirrors(path: str, folder: Path, compose: Compose) -> None:
    variables = {
        "IMMICH_ML_CN_IMAGE": "registry.example/me/immich-ml-cn",
        "BASE_IMAGE": "mirror.example/library/python:3.13-slim-bookworm",
        "APT_MIRROR": "http://mirror.example",
        "PYPI_INDEX": "https://mirror.example/simple",
    }
    services = compose(str(ROOT / path), **variables)["services"].values()
    (service,) = [one for one in services if "immich-ml-cn" in one["image"]]
    name, _, target = service["image"].rpartition(":")
    assert name == variables.pop("IMMICH_ML_CN_IMAGE")
    assert service["build"]["target"] == target
    assert service["build"]["args"] == variables
    assert set(service["build"]["args"]) <= set(re.findall(r"^ARG (\w+)", dockerfile(), flags=re.MULTILINE))


@pytest.mark.parametrize("path", [*BESIDE, *ALONE])
def test_docker_waits_until_requests_have_ended(path: str) -> None:
    servers = [one for one in load(path)["services"].values() if "immich-ml-cn" in one["image"]]
    assert servers
    for server in servers:
        assert int(server["stop_grace_period"].removesuffix("s")) > GRACE_S


def test_compose_yaml_gets_a_gpu_by_uncommenting_three_lines(folder: Path, compose: Compose) -> None:
    text, count = re.subn(
        r"^    # (?=extends:|  file:|  service:)", "    ", (ROOT / "compose.yaml").read_text(), flags=re.M
    )
    assert count == 3
    shutil.copy(ROOT / "hwaccel.ml.yml", folder)
    (folder / "compose.yaml").write_text(text)
    assert gpus(compose("compose.yaml")["services"][SERVICE]) == [["gpu"]]


@pytest.mark.parametrize("path", ["deploy/cuda/docker-compose.override.yml", "deploy/compose.remote.yaml"])
def test_the_gpu_variants_ask_for_one(path: str) -> None:
    service = load(path)["services"][SERVICE]
    assert gpus(service) == [["gpu"]]
    assert service["image"].endswith(":cuda")


def test_intels_graphics_are_handed_in(folder: Path, compose: Compose) -> None:
    shutil.copy(ROOT / "deploy/openvino/docker-compose.override.yml", folder)
    service = compose(RENDER_GROUP="993")["services"][SERVICE]
    assert service["devices"][0]["source"] == "/dev/dri"
    assert service["group_add"] == ["993"]


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
    known = {variable.name for variable in variables().values()}
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


# --- CI and releases ---

WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())


def jobs(name: str) -> Any:
    return load(f".github/workflows/{name}.yml")["jobs"]


def steps(job: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = job["steps"]
    return found


@pytest.mark.parametrize("name", ["ci", "release"])
def test_every_target_is_built_and_tried(name: str) -> None:
    image = jobs(name)["image"]
    built = {(one["target"], one["runner"]) for one in image["strategy"]["matrix"]["include"]}
    assert {target for target, _ in built} == {"cpu", "cuda", "cuda12", "openvino"}
    assert ("cpu", "ubuntu-24.04-arm") in built
    assert any("scripts/smoke-image" in step.get("run", "") for step in steps(image))
    assert "secrets." not in (ROOT / f".github/workflows/{name}.yml").read_text(encoding="utf-8")


def test_ci_runs_every_python_version() -> None:
    assert jobs("ci")["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_an_image_is_tried_before_it_is_pushed_and_tagged_when_all_are() -> None:
    names = [step.get("name", step.get("uses")) for step in steps(jobs("release")["image"])]
    assert names.index("Try it before anybody else does") < names.index("Push what was tried, without a tag")
    assert jobs("release")["tags"]["needs"] == "image"
    assert jobs("release")["release"]["needs"] == "tags"


def test_what_is_pushed_tells_how_it_was_built_and_what_is_in_it() -> None:
    (push,) = [step for step in steps(jobs("release")["image"]) if step.get("id") == "push"]
    assert push["with"]["sbom"] is True
    assert push["with"]["provenance"] == "mode=max"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses: (\S+?)@(\S+) # (\S+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(used) == path.read_text(encoding="utf-8").count("uses:")
    assert [name for name, commit, _ in used if not re.fullmatch(r"[0-9a-f]{40}", commit)] == []
    assert [name for name, _, version in used if not re.fullmatch(r"v\d+\.\d+\.\d+", version)] == []


def test_zizmor_finds_nothing_in_the_workflows() -> None:
    command = [str(Path(sys.executable).with_name("zizmor")), "--offline", "--quiet", str(ROOT / ".github")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_actionlint_finds_nothing_in_the_workflows() -> None:
    command = [str(Path(sys.executable).with_name("actionlint")), *map(str, WORKFLOWS)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_shell_in_workflows_passes_shellcheck(path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    scripts = [
        step["run"]
        for job in load(str(path.relative_to(ROOT)))["jobs"].values()
        for step in steps(job)
        if "run" in step
    ]
    assert scripts
    for script in scripts:
        text = re.sub(r"\$\{\{.*?\}\}", "value", script)
        checked = subprocess.run(
            ["shellcheck", "--shell=bash", "-"], input=text, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout


def release_notes(folder: Path, version: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "scripts" / "release_notes.py"), version, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_notes_of_a_release_come_from_both_changelogs(tmp_path: Path) -> None:
    for name, line in (("CHANGELOG.md", "Faces"), ("CHANGELOG.zh-CN.md", "人脸")):
        text = f"# Changelog\n\n## 0.2.0, unreleased\n\n- new\n\n## 0.1.0, 2026-12-01\n\n### Added\n\n- {line}.\n"
        (tmp_path / name).write_text(text, encoding="utf-8")
    ran = release_notes(tmp_path, "0.1.0")
    assert ran.stdout == "## Added\n\n- Faces.\n\n---\n\n## Added\n\n- 人脸.\n"
    assert "has no date for 0.2.0" in release_notes(tmp_path, "0.2.0").stderr
    assert "says nothing about 0.3.0" in release_notes(tmp_path, "0.3.0").stderr


def test_both_changelogs_have_the_version_of_the_code(tmp_path: Path) -> None:
    for name in ("CHANGELOG.md", "CHANGELOG.zh-CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        dated = re.sub(rf"^(## {re.escape(__version__)}).*$", r"\1, 2026-12-01", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(dated, encoding="utf-8")
    assert release_notes(tmp_path, __version__).returncode == 0
