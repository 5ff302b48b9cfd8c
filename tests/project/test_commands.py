"""What the READMEs tell people to type is typed here, or needs what is not here."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]
from PIL import Image
from server import ROOT, RunningServer, fill_cache

from immich_ml_cn.settings import Settings

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [textwrap.dedent(body) for body in re.findall(r"^ *```sh\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)]

NEEDS: Mapping[str, str] = {
    "immich-ml-cn models fetch": "the internet",
    "scripts/bench --url": "a second server, and quiet minutes",
    "scripts/test": "nothing: it runs this test",
}
"""Beginning of a command → what it would need that is not here."""

TRIED = (
    *(
        "git clone",
        "cp immich-ml-cn/deploy",
        "docker compose",
        "git -C immich-ml-cn pull",
        "rm docker-compose.override.yml",
    ),
    *("cd immich-ml-cn", "scripts/serve", ".venv/bin/immich-ml-cn", "immich-ml-cn models list", "curl", "-F "),
    "MACHINE_LEARNING_CLIP_ALIASES",
)
"""Beginnings of the commands that the tests below run."""

IMMICHS_FILE = {
    "name": "immich",
    "services": {
        "immich-server": {"image": "example/immich-server:release"},
        "immich-machine-learning": {
            "container_name": "immich_machine_learning",
            "image": "example/immich-machine-learning:release",
            "volumes": ["model-cache:/cache"],
            "env_file": [".env"],
            "restart": "always",
        },
    },
    "volumes": {"model-cache": None},
}

DOCKER = """#!/usr/bin/env bash
# In place of Docker's client: Compose reads the files for real; what would run in a container runs here.
set -euo pipefail
[ "$1" = compose ]
verb=$2
shift 2
words=()
while [ $# -gt 0 ]; do
    case $1 in -*) ;; *) words+=("$1") ;; esac
    if [ "$verb" = exec ] && [ ${#words[@]} -eq 1 ]; then shift; break; fi
    shift
done
if [ "$verb" = up ]; then words=(); fi
for service in "${words[@]}"; do "$COMPOSE" config --services | grep -Fx "$service" >/dev/null; done
"$COMPOSE" config >"compose-$verb.yml"
if [ "$verb" = exec ]; then exec "$BIN/$1" "${@:2}"; fi
"""
GIT = """#!/usr/bin/env bash
# In place of git: a clone is this very folder.
set -euo pipefail
case "$*" in clone*) ln -s "$CLONE" "${@: -1}" ;; "-C "*" pull") [ -d "$2/deploy" ] ;; *) exit 1 ;; esac
"""


def lines_of(block: str) -> list[str]:
    """The commands of a block, without comments."""
    return [line for line in (re.sub(r"\s# .*$", "", line).strip() for line in block.splitlines()) if line]


def block_with(command: str) -> str:
    """The only block that has a command, with its placeholders filled in."""
    (found,) = [block for block in BLOCKS if command in block]
    return re.sub(r"<[^<>]*>", "https://example.invalid/me/immich-ml-cn", found)


def test_every_command_is_tried_or_needs_something() -> None:
    commands = [line for block in BLOCKS for line in lines_of(block)]
    assert len(commands) > 20
    assert [line for line in commands if not line.startswith((*TRIED, *NEEDS))] == []


def test_nothing_is_listed_that_nobody_types() -> None:
    commands = [line for block in BLOCKS for line in lines_of(block)]
    assert [start for start in (*TRIED, *NEEDS) if not any(line.startswith(start) for line in commands)] == []


@pytest.fixture
def immich(tmp_path: Path) -> Path:
    """A folder as Immich's documentation makes it."""
    folder = tmp_path / "immich"
    folder.mkdir()
    (folder / ".env").write_text("DB_PASSWORD=postgres\n")
    (folder / "docker-compose.yml").write_text(yaml.safe_dump(IMMICHS_FILE))
    return folder


@pytest.fixture
def typed(immich: Path, tmp_path: Path) -> Callable[[str], str]:
    """Types a block in Immich's folder; what it says."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("docker", DOCKER), ("git", GIT)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    here = Path(sys.executable).parent
    environ = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "COMPOSE": str(here / "docker-compose"),
        "BIN": str(here),
        "CLONE": str(ROOT),
        "MACHINE_LEARNING_CACHE_FOLDER": str(fill_cache(tmp_path / "cache")),
        "MACHINE_LEARNING_PROVIDER": "cpu",
        "HF_HUB_OFFLINE": "1",
        "IMMICH_PORT": "9",
    }

    def run(block: str) -> str:
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=immich,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, f"{block}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    return run


def test_the_steps_for_docker_and_the_way_back(immich: Path, typed: Callable[[str], str]) -> None:
    typed(block_with("deploy/cpu/docker-compose.override.yml"))
    service = yaml.safe_load((immich / "compose-up.yml").read_text())["services"]["immich-machine-learning"]
    assert service["image"] == "immich-ml-cn:cpu"
    assert service["build"]["context"] == str(immich / "immich-ml-cn")
    typed(block_with("docker compose restart"))
    looked = typed(block_with("immich-ml-cn doctor\ndocker"))
    assert "cache: " in looked
    assert "山间音乐会" in looked
    typed(block_with("git -C immich-ml-cn pull"))
    typed(block_with("rm docker-compose.override.yml"))
    service = yaml.safe_load((immich / "compose-up.yml").read_text())["services"]["immich-machine-learning"]
    assert service["image"] == "example/immich-machine-learning:release"


def test_the_steps_without_docker(tmp_path: Path) -> None:
    """`scripts/serve` runs in the environment of the tests, which is the CPU's with more in it."""
    lines = lines_of(block_with("\nscripts/serve"))
    assert lines[1:] == ["cd immich-ml-cn", "scripts/serve"]
    if not environment_is_current():
        pytest.skip("scripts/serve would set up .venv anew: run scripts/environment test")
    with ServeScript(tmp_path, MACHINE_LEARNING_CACHE_FOLDER=str(fill_cache(tmp_path / "cache"))) as server:
        for line in lines_of(block_with("--out boxes.png")):
            words = [str(tmp_path / word) if word == "boxes.png" else word for word in shlex.split(line)]
            ran = subprocess.run(words, cwd=ROOT, env=server.environ, capture_output=True, text=True, timeout=120)
            assert ran.returncode == 0, ran.stdout + ran.stderr
        answer = typed_curl(server.port)
    assert "山间音乐会" in answer
    with Image.open(tmp_path / "boxes.png") as drawn, Image.open(ROOT / "docs" / "sample.jpg") as photo:
        assert drawn.size == photo.size


class ServeScript(RunningServer):
    """`scripts/serve` in place of the module."""

    def start(self) -> None:
        with self._log.open("wb") as log:
            command = [str(ROOT / "scripts" / "serve")]
            self.process = subprocess.Popen(command, cwd=ROOT, env=self._environ, stdout=log, stderr=log)

    @property
    def environ(self) -> dict[str, str]:
        """What a command in another terminal has in its environment."""
        return {**self._environ, "IMMICH_PORT": str(self.port)}


def environment_is_current() -> bool:
    """Whether .venv is what `scripts/environment test` made of the files as they are now."""
    stamp, wanted = ROOT / ".venv" / ".lock", hashlib.sha256()
    for name in ("requirements/test.txt", "pyproject.toml"):
        wanted.update((ROOT / name).read_bytes())
    return stamp.is_file() and stamp.read_text().split() == ["test", wanted.hexdigest()]


def typed_curl(port: int) -> str:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = block_with("curl ").replace("3003", str(port)).replace("curl ", "curl --silent --fail ")
    return subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_models_list_runs_as_it_stands() -> None:
    command = [str(Path(sys.executable).with_name("immich-ml-cn")), *lines_of(block_with("models list"))[0].split()[1:]]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "★" in listed


def test_without_the_internet_models_fetch_names_each_file_and_its_place(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "MACHINE_LEARNING_CACHE_FOLDER": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    lines = [line for block in BLOCKS for line in lines_of(block) if line.startswith("immich-ml-cn models fetch")]
    assert len(lines) == 3
    for line in lines:
        command = [str(Path(sys.executable).with_name("immich-ml-cn")), *shlex.split(line)[1:]]
        ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
        assert ran.returncode == 1, ran.stderr
        assert f" → {tmp_path}/" in ran.stdout + ran.stderr


def test_the_settings_shown_can_be_used() -> None:
    for line in lines_of(block_with("MACHINE_LEARNING_CLIP_ALIASES=none")):
        name, _, value = line.partition("=")
        Settings.from_env({name: value})
    for name, value in re.findall(r"^\| `([A-Z_]+)=([^`…]+)` \|", README, re.MULTILINE):
        assert Settings.from_env({name: value}) != Settings(), name


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("-h", 0), ("nonsense", 2)])
def test_scripts_serve_explains_itself(argument: str, code: int) -> None:
    ran = subprocess.run([str(ROOT / "scripts" / "serve"), argument], capture_output=True, text=True, check=False)
    assert ran.returncode == code
    assert "scripts/serve [cpu|cuda|cuda12|openvino]" in ran.stdout + ran.stderr


@pytest.mark.parametrize(("language", "remedy"), [("C", "is needed: PYTHON=/"), ("zh_CN.UTF-8", "用 PYTHON=/")])
def test_without_a_python_that_can_be_used_scripts_serve_says_what_to_do(
    tmp_path: Path, language: str, remedy: str
) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LANG": language, "VENV": str(tmp_path / "venv")}
    command = [str(ROOT / "scripts" / "environment"), "cpu"]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert remedy in ran.stderr


def test_the_picture_shown_is_what_the_command_draws(tmp_path: Path) -> None:
    out = tmp_path / "boxes.png"
    environ = {"PATH": os.environ["PATH"], "MACHINE_LEARNING_CACHE_FOLDER": str(tmp_path), "IMMICH_PORT": "9"}
    environ |= {"HF_HUB_OFFLINE": "1", "MACHINE_LEARNING_PROVIDER": "cpu"}
    command = [sys.executable, "-m", "immich_ml_cn", "test", "docs/sample.jpg", "--task", "ocr", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, check=True, timeout=120)
    drawn, shown = (np.asarray(Image.open(path), np.int16) for path in (out, ROOT / "docs" / "sample-boxes.png"))
    differing = np.any(np.abs(drawn - shown) > 60, axis=2)
    assert differing.mean() < 0.005, "another CPU's arithmetic moves a frame by a pixel; not more"
