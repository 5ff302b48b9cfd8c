"""Messages are English text that remembers how it was made, and no message for people lacks its translation."""

import ast
import copy
import json
import logging
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest
from server import ROOT

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import Translator, from_json, language_for, listing, said_by, to_json, tr

sys.path.insert(0, str(ROOT / "scripts"))
import messages as catalogues


def record(text: object, *values: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("immich_ml_cn", level, __file__, 1, text, values, None)


PACKAGE = ROOT / "immich_ml_cn"

HERE = tr("missing: {names}", names="a, b")
CHINESE = Translator("zh")


def test_a_message_is_english_text() -> None:
    assert HERE == "missing: a, b"
    assert f"{HERE}!" == "missing: a, b!"
    assert Translator()(HERE) == "missing: a, b"


def test_braces_without_values_stay() -> None:
    assert tr('an answer such as {"a": 1}') == 'an answer such as {"a": 1}'


def test_a_message_is_translated_where_it_is_shown() -> None:
    assert CHINESE(HERE) == "缺少：a, b"
    assert CHINESE("missing: a, b") == "missing: a, b", "plain text is left alone"
    assert CHINESE(17) == "17"


def test_values_that_are_messages_or_exceptions_are_translated_too() -> None:
    inner = Unavailable(tr("source {name}", name="x"))
    assert CHINESE(tr("missing: {names}", names=inner)) == "缺少：来源 x"
    assert str(tr("missing: {names}", names=inner)) == "missing: source x"
    assert CHINESE(listing("; ", [HERE, inner])) == "缺少：a, b; 来源 x"
    assert CHINESE(inner) == "来源 x"
    assert CHINESE(said_by(inner)) == "来源 x"
    assert said_by(OSError("plain")) == "plain"


def test_a_copy_remembers() -> None:
    for message in (HERE, listing("; ", [HERE, HERE])):
        assert CHINESE(copy.deepcopy(message)) == CHINESE(message)


def test_another_process_is_told_a_message_with_its_values() -> None:
    for message in (HERE, listing("; ", [HERE, Unavailable(HERE), Path("/a"), 17]), tr("missing: {names}", names=1)):
        told = from_json(json.loads(json.dumps(to_json(message))))
        assert (told, CHINESE(told)) == (message, CHINESE(message))
    assert from_json(to_json("plain")) == "plain"


def test_what_has_no_translation_stays_english() -> None:
    message = tr("never {seen} before", seen=1)  # of a test, so in no catalogue
    assert CHINESE(message) == "never 1 before"


def test_a_line_of_the_log_is_translated_with_its_values() -> None:
    assert CHINESE.log(record("loading %s", "clip")) == "正在加载 clip"
    assert CHINESE.log(record("%s", Unavailable(HERE))) == "缺少：a, b"
    assert CHINESE.log(record(HERE)) == "缺少：a, b"
    assert CHINESE.log(record("stopped")) == "已停止"
    assert CHINESE.log(record("")) == ""
    assert CHINESE.log(record("100 % of nothing")) == "100 % of nothing"
    assert CHINESE.log(record("loading %s", "clip", level=logging.DEBUG)) == "loading clip"
    assert CHINESE.log(record("%(a)s", {"a": 1})) == "1"


@pytest.mark.parametrize(
    ("locale", "language"),
    [
        ("zh_CN.UTF-8", "zh"),
        ("zh", "zh"),
        ('"zh"', "zh"),
        ("zh-Hans", "zh"),
        ("ZH_TW", "zh"),
        ("en_GB", "en"),
        ("C", None),
        ("", None),
    ],
)
def test_languages_of_locales(locale: str, language: str | None) -> None:
    assert language_for(locale) == language


# --- the catalogues ---

ADVICE = "run scripts/messages.py and translate what it names, in immich_ml_cn/messages/locale/zh_CN.po"


@pytest.mark.parametrize("locale", catalogues.LOCALES)
def test_every_message_has_a_translation(locale: str) -> None:
    known = catalogues.read(locale)
    translated = {entry.msgid for entry in known if entry.translated()}
    assert [found for found in catalogues.messages() if found.text not in translated] == [], ADVICE


@pytest.mark.parametrize("locale", catalogues.LOCALES)
def test_translations_have_the_values_of_the_original(locale: str) -> None:
    for entry in catalogues.read(locale):
        original, translation = entry.msgid, entry.msgstr
        assert _printf(original) == _printf(translation), original
        if not _printf(original):
            assert _fields(original) == _fields(translation), original


def _printf(text: str) -> list[str]:
    return re.findall(r"%(?!%)[-+#0-9.]*[sdgrf]", text)


def _fields(text: str) -> set[tuple[str | None, str | None, str | None]]:
    if "{" not in text:
        return set()
    return {(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(text) if name}


def test_the_catalogue_is_as_the_script_writes_it() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "messages.py"), "--check"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{ADVICE}\n{ran.stdout}"


FOR_PEOPLE = {
    *("Unavailable", "DiskFailed", "SourceFailed", "WrongBytes", "EngineError", "LoadError", "SettingsError"),
    *("UnknownModel", "TooLarge", "BadImage", "OutOfMemory", "RequestTimeout", "UpstreamFailed", "UpstreamTimeout"),
}
"""Failures that the log tells a person of, with what to do."""


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_failures_for_people_are_marked(file: Path) -> None:
    unmarked = [
        f"{file}:{call.lineno}: write {call.func.id}(tr(…))"
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in FOR_PEOPLE and call.args
        if isinstance(call.args[0], ast.Constant | ast.JoinedStr | ast.BinOp)
    ]
    assert unmarked == []


@pytest.mark.parametrize(
    "said", ['tr(f"no {model}")', 'logger.info(f"no {model}")', "tr(text)", 'logger.error("a" + b)']
)
def test_a_message_that_nobody_could_translate_is_refused(said: str) -> None:
    with pytest.raises(catalogues.NotLiteral, match="write tr"):
        list(catalogues.messages_in(said))


def test_messages_are_found_wherever_they_are_said() -> None:
    source = (
        'logger.warning("one %s", tr("two {x}", x=1))\nlogger.debug("no")\nlogger.info("%s: %s", a, b)\nprint("no")'
    )
    assert [found.text for found in catalogues.messages_in(source)] == ["one %s", "two {x}"]
