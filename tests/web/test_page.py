"""The page's files, and who is given it."""

import re

import pytest

from immich_ml_cn.web import page

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML;q=0.5", True),
        ("text/html;q=0.5, application/json;q=0.4", True),
        ("", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("application/json, text/html;q=0.9", False),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        ("application/xhtml+xml", False),
    ],
)
def test_browsers_prefer_html_and_nobody_else(accept: str, html: bool) -> None:
    assert page.prefers_html(accept) is html


def test_the_files_are_small() -> None:
    assert sum(map(len, page.read_files().values())) < 120_000


def test_nothing_in_the_files_names_another_address() -> None:
    """But for the namespace of SVG, which nobody asks for."""
    for name, data in page.read_files().items():
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", data.decode())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, name


def test_nothing_in_the_page_is_inline() -> None:
    index = page.read_files()[page.INDEX].decode()
    assert not re.search(r"\son\w+=|<style|style=|<script(?![^>]*\ssrc=)", index)


def test_no_script_reads_markup() -> None:
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
    for name, data in page.read_files().items():
        assert not re.search(markup, data.decode()), name


def test_every_file_that_a_file_names_is_there() -> None:
    files = page.read_files()
    assert set(re.findall(r"(?:href|src)=\"page/([^\"]+)\"", files[page.INDEX].decode())) <= files.keys()
    for data in files.values():
        assert set(re.findall(r"from \"\./([^\"]+)\"", data.decode())) <= files.keys()


def test_every_word_that_is_asked_for_is_there_in_both_languages() -> None:
    files = page.read_files()
    defined = set(re.findall(r"^  (\w+): \[", files["texts.js"].decode(), re.MULTILINE))
    sources = "".join(data.decode() for data in files.values())
    asked = set(re.findall(r"data-text=\"(\w+)\"", sources)) | set(re.findall(r"\bword\(\"(\w+)\"", sources))
    assert asked <= defined
    computed = {"tierExact", "tierLines", "tierMisread"} | {
        "ready",
        "loading",
        "failed",
        "standin",
        "absent",
        "text",
        "faces",
        "embedding",
        "fetching",
        "fetchNow",
    }
    assert defined - asked <= computed
