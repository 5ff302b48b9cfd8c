"""The order of the package: imports point down only, and what belongs in one place is in one place."""

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from server import ROOT

SOURCE = ROOT / "immich_ml_cn"
PACKAGE = SOURCE.name

ROOMS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("commands", "web"),
    ("service",),
    ("api",),
    ("search",),
    ("serving",),
    ("models", "store"),
    ("engines",),
    ("logs",),
    ("settings",),
    ("sources",),
    ("memory", "metrics"),
    ("errors",),
    ("messages",),
    ("__init__",),
)
"""Rooms and the files that they share, from the top down: each may import only from lines below its own."""

LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}

MAX_FILES = 10
"""Files that lie beside the rooms."""

ONLY_IN = {
    "onnxruntime": {"engines/onnx_runtime.py"},
    "openvino": {"engines/openvino.py"},
    "starlette": {"web/admission.py", "web/app.py", "web/connection.py", "web/gateway.py", "web/page.py"},
    "uvicorn": {"web/connection.py", "web/server.py"},
    "prometheus_client": {"metrics.py"},
    "pillow_heif": {"models/heic.py"},
    "pynvml": {"memory.py"},
    "opencc": {"search/normalisation.py"},
    "rjieba": {"search/words.py"},
    "sqlite3": {"commands/search.py", "search/folder.py", "search/index.py", "search/texts.py", "search/writer.py"},
}
"""Library → the only files that may import it."""


@cache
def modules() -> list[Path]:
    return sorted(file for file in SOURCE.rglob("*.py") if "__pycache__" not in file.parts)


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def room(file: Path) -> str:
    """The room that a file belongs to, or the file itself where it lies beside the rooms."""
    first = file.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


@cache
def imports(file: Path) -> set[str]:
    """The absolute names of everything a file imports, wherever in the file, type checking included."""
    found = set()
    package = [PACKAGE, *file.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def rooms_imported(file: Path) -> set[str]:
    """The rooms, and the files beside them, that a file imports."""
    ours = {name.split(".")[1] for name in imports(file) if name.startswith(f"{PACKAGE}.")}
    known = {room(module) for module in modules()}
    return {name if name in known else "__init__" for name in ours}


def ids(file: Path) -> str:
    return str(file.relative_to(SOURCE))


@pytest.fixture(scope="module", params=modules(), ids=ids)
def file(request: pytest.FixtureRequest) -> Path:
    """Each module: all tests of one, then of the next."""
    path: Path = request.param
    return path


@pytest.fixture(scope="module")
def tree(file: Path) -> ast.Module:
    return parsed(file)


def test_every_room_has_a_level() -> None:
    assert {room(file) for file in modules()} == set(LEVEL)
    assert len(LEVEL) == sum(len(names) for names in ROOMS)


def test_the_tree_is_the_table_of_contents() -> None:
    assert len([entry for entry in SOURCE.iterdir() if entry.is_file()]) <= MAX_FILES


def test_the_documents_picture_is_the_tree() -> None:
    document = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, picture, _ = re.split(rf"```\n{PACKAGE}/\n|\n```", document, maxsplit=2)
    drawn = re.findall(r"^  \w+/|\w+\.py", picture, re.MULTILINE)
    found = {entry.name + "/" * entry.is_dir() for entry in SOURCE.iterdir()} - {"__init__.py", "__pycache__/"}
    assert sorted(name.strip() for name in drawn) == sorted(found)


def test_imports_point_down(file: Path) -> None:
    here = room(file)
    for imported in rooms_imported(file) - {here}:
        assert LEVEL[imported] > LEVEL[here], f"{ids(file)} imports {imported}, which is not below it"


def test_only_the_command_line_imports_the_web(file: Path) -> None:
    if "web" in rooms_imported(file):
        assert room(file) in {"web", "cli"}


def test_a_library_has_one_place(file: Path) -> None:
    for name in {imported.split(".")[0] for imported in imports(file)}:
        assert ids(file) in ONLY_IN.get(name, {ids(file)}), f"{name} belongs in {ONLY_IN[name]}"


def test_each_of_these_libraries_is_in_use() -> None:
    """A name that nobody imports any more would make the test above pass for nothing."""
    used = {imported.split(".")[0] for file in modules() for imported in imports(file)}
    assert set(ONLY_IN) <= used


def test_only_settings_reads_the_environment(file: Path, tree: ast.Module) -> None:
    readers = {"environ", "environb", "getenv", "getenvb", "putenv"}
    reads = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & readers
    reads |= imports(file) & {f"os.{name}" for name in readers}
    assert not reads or room(file) == "settings", reads


def test_no_global_statements(tree: ast.Module) -> None:
    found = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Global)]
    assert not found


def test_a_module_says_what_it_is_for(tree: ast.Module) -> None:
    assert ast.get_docstring(tree)


def loaded_by(module: str) -> set[str]:
    """The top-level packages in memory after importing a module in a fresh process."""
    code = f"import json, sys, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(answer.stdout))


HEAVY = {
    *("cv2", "onnxruntime", "openvino", "onnx", "tokenizers", "yaml", "rapidocr", "pyclipper"),
    *("httpx", "httpx2", "huggingface_hub", "prometheus_client", "pillow_heif", "opencc", "sqlite3"),
}


def test_the_server_starts_without_what_only_models_need() -> None:
    loaded = loaded_by(f"{PACKAGE}.web.server")
    assert {"uvicorn", "starlette", "PIL", "numpy", PACKAGE} <= loaded
    assert not loaded & HEAVY


def test_nothing_in_front_of_immich_is_imported_unless_it_is_asked_for() -> None:
    code = f"import sys, {PACKAGE}.cli, {PACKAGE}.web.app; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = answer.stdout.split()
    assert f"{PACKAGE}.web.page" in loaded
    assert not [name for name in loaded if "gateway" in name or name.split(".")[0] in {"bullmq", "redis"}]


def test_the_command_line_starts_without_the_server() -> None:
    assert not loaded_by(f"{PACKAGE}.cli") & (HEAVY | {"uvicorn", "starlette", "PIL"})


def test_nothing_is_scheduled_by_the_wall_clock(file: Path, tree: ast.Module) -> None:
    """It jumps: when a computer without a battery finds its time server. Only `fetch` compares it, with a header."""
    wall = {"time.time", "time.time_ns", "datetime.datetime", "datetime.date"}
    used = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    found = (used | imports(file)) & wall
    allowed = {"time.time"} if ids(file) == str(Path("store", "fetch", "transfer.py")) else set()
    assert found <= allowed


def test_nothing_is_unpickled_or_evaluated(file: Path, tree: ast.Module) -> None:
    """Whatever is fetched is data: ONNX graphs, JSON, YAML by its safe loader."""
    names = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    calls = {
        f"{node.func.value.id}.{node.func.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
    }
    assert not names & {"eval", "exec", "compile", "__import__"}
    assert not calls & {"yaml.unsafe_load", "os.system", "os.popen"}
    assert not {name.split(".")[0] for name in imports(file)} & {"pickle", "marshal", "shelve", "dill", "torch"}
