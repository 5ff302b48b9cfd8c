"""The two languages of a document say the same: equal headings, code and tables; what they link to exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from server import ROOT

CHINESE = sorted([*ROOT.glob("*.zh-CN.md"), *(ROOT / "docs").glob("*.zh-CN.md")])
PAIRS = [(path.with_name(path.name.replace(".zh-CN", "")), path) for path in CHINESE]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "models").glob("*.md")])

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)


def code_blocks(text: str) -> list[tuple[str, list[str]]]:
    """Language and lines of each block, without empty lines and what is translated."""
    return [
        (language, [line for line in map(uncommented, body.splitlines()) if line])
        for language, body in FENCE.findall(text)
    ]


def uncommented(line: str) -> str:
    """A line without its comment, and with nothing in its <placeholders>."""
    return re.sub(r"<[^<>]*>", "<>", re.sub(r"(^|\s)#.*$", "", line)).rstrip()


def prose(text: str) -> str:
    return FENCE.sub("", text)


def headings(text: str) -> list[int]:
    return [len(hashes) for hashes in re.findall(r"^(#+) ", prose(text), flags=re.MULTILINE)]


def tables(text: str) -> list[list[int]]:
    """The number of cells of each row of each table."""
    found = re.findall(r"(?:^ *\|.*\n?)+", prose(text), flags=re.MULTILINE)
    return [[len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()] for table in found]


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda path: path.name)
def test_both_languages_have_the_same_structure(english: Path, chinese: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (english, chinese)]
    assert headings(texts[0]) == headings(texts[1])
    assert code_blocks(texts[0]) == code_blocks(texts[1])
    assert tables(texts[0]) == tables(texts[1])


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda path: path.name)
def test_both_languages_name_the_same_settings(english: Path, chinese: Path) -> None:
    names = [
        set(re.findall(r"`([A-Z][A-Z0-9_]{5,})", prose(path.read_text(encoding="utf-8"))))
        for path in (english, chinese)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_links_to_exists(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(path.read_text(encoding="utf-8")))
    missing = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert missing == []


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a document in addresses."""
    found = re.findall(r"^#+ (.*)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_headings_a_document_links_to_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    missing = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", prose(text)):
        document = path.parent / target if target else path
        if "://" not in target and anchor not in anchors(document.read_text(encoding="utf-8")):
            missing.append(f"{target}#{anchor}")
    assert missing == []


@pytest.mark.parametrize("path", [chinese for _, chinese in PAIRS], ids=lambda path: path.name)
def test_chinese_pages_link_to_chinese_pages(path: Path) -> None:
    """But for the other language of the page itself, and pages that have no Chinese twin."""
    targets = re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", prose(path.read_text(encoding="utf-8")))
    english = [target for target in targets if ".zh-CN" not in target and target != path.name.replace(".zh-CN", "")]
    twins = [path.parent / target.replace(".md", ".zh-CN.md") for target in english]
    assert [twin.name for twin in twins if twin.exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_commands_name_exist(path: Path) -> None:
    """Scripts and deployment files in code blocks, as a reader would type them."""
    code = "\n".join(body for _, body in FENCE.findall(path.read_text(encoding="utf-8")))
    named = re.findall(r"(?<![\w/.])((?:scripts|deploy|docs)/[\w./-]*\w)", code)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_main_documents_have_both_languages() -> None:
    names = {chinese.name for _, chinese in PAIRS}
    assert {"README.zh-CN.md", "deploy.zh-CN.md", "troubleshooting.zh-CN.md"} <= names


@pytest.mark.parametrize("name", ["troubleshooting.md", "troubleshooting.zh-CN.md"])
def test_the_messages_explained_are_those_of_the_code(name: str) -> None:
    """In the first column, what stands in backticks after a status or alone is our own; `…` stands for what varies."""
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "immich_ml_cn").rglob("*.py")))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    cells = [row.split(" | ")[0] for row in re.findall(r"^\| (.*)", prose(text), flags=re.MULTILINE)]
    messages = [
        message for cell in cells if not cell.startswith("Immich") for message in re.findall(r"`([^`]+)`", cell)
    ]
    assert len(messages) > 20
    fragments = [(message, part) for message in messages for part in re.split(r"…", message) if len(part) > 3]
    assert [message for message, part in fragments if part not in source] == []


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "generate_docs.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)


def test_generated_tables_are_those_of_the_code() -> None:
    checked = generate("--check")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_every_table_of_the_generator_stands_in_a_document() -> None:
    listed = subprocess.run(
        [sys.executable, "-c", "import generate_docs as g; print(*g.TABLES); print(*g.DOCUMENTS)"],
        cwd=ROOT / "scripts",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    tables, documents = (line.split() for line in listed.stdout.splitlines())
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in documents)
    assert set(re.findall(r"<!-- table ([\w-]+) -->", text)) == set(tables)
