"""The READMEs' commands and the answer they show are true."""

import json
import re
from typing import Any

import numpy as np
import pytest
from server import ROOT, RunningServer

READMES = ("README.md", "README.zh-CN.md")


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the running server says to the request that the README shows."""
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    entries = re.search(r"-F 'entries=(\{.*\})'", shown)
    picture = re.search(r"-F image=@(\S+)", shown)
    assert entries
    assert picture
    with RunningServer(tmp_path_factory.mktemp("readme")) as server, server.client() as client:
        return client.predict(json.loads(entries[1]), (ROOT / picture[1]).read_bytes()).json


@pytest.mark.parametrize("name", READMES)
def test_the_answer_shown_is_the_answer_given(name: str, answer: Any) -> None:
    """The texts to the letter; positions and scores within what another CPU's arithmetic may change."""
    shown = re.search(r"<!-- answer: \S+ -->\n```json\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    assert shown
    expected = json.loads(shown[1])
    assert answer["ocr"]["text"] == expected["ocr"]["text"]
    assert (answer["imageWidth"], answer["imageHeight"]) == (expected["imageWidth"], expected["imageHeight"])
    for key, tolerance in (("box", 0.003), ("boxScore", 0.02), ("textScore", 0.02)):
        np.testing.assert_allclose(answer["ocr"][key], expected["ocr"][key], atol=tolerance)


@pytest.mark.parametrize("name", READMES)
def test_the_files_it_names_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    commands = re.findall(r"^(scripts/[\w.-]+)", text, re.MULTILINE)
    assert links
    assert commands
    assert not [path for path in (*links, *commands) if not (ROOT / path).exists()]
