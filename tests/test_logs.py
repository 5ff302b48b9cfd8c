"""Logs for people: one line per event, Immich's levels, colour only where somebody sees it."""

import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator

import pytest

from immich_ml_cn import logs
from immich_ml_cn.settings import Settings
from immich_ml_cn.settings.addresses import parse_preference
from immich_ml_cn.settings.values import LogLevel


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with warnings.catch_warnings():
        yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("uvicorn", "httpx", "PIL", "filelock", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def written(level: LogLevel = "log", *, no_color: bool = False, stream: io.StringIO | None = None) -> str:
    """What a message of each level leaves in the log."""
    stream = stream or io.StringIO()
    logs.set_up(level, no_color=no_color, stream=stream)
    logger = logging.getLogger("immich_ml_cn.test")
    for name in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, name)("a message of level %s", name)
    return stream.getvalue()


def test_a_line_has_time_level_and_message() -> None:
    lines = written().splitlines()
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] INFO     a message of level info", lines[0])
    assert lines[1].endswith("] WARNING  a message of level warning")
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("level", "count"),
    [("verbose", 5), ("debug", 5), ("log", 4), ("info", 4), ("warn", 3), ("error", 2), ("critical", 1)],
)
def test_immichs_levels(level: LogLevel, count: int) -> None:
    assert len(written(level).splitlines()) == count
    assert level in logs.LEVELS


def test_no_colour_in_a_file() -> None:
    assert "\x1b" not in written()


def test_colour_on_a_terminal_by_level() -> None:
    info, warning, error, critical = written(stream=Terminal()).splitlines()
    assert "\x1b" not in info
    assert warning.startswith("\x1b[33m")
    assert error.startswith("\x1b[31m")
    assert critical.startswith("\x1b[1;31m")
    assert all(line.endswith("\x1b[0m") for line in (warning, error, critical))


def test_no_color_wins_on_a_terminal() -> None:
    assert "\x1b" not in written(no_color=True, stream=Terminal())


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.error", "httpx", "httpx2", "httpcore", "PIL.Image", "filelock"])
def test_libraries_are_heard_from_warnings_on(name: str) -> None:
    stream = io.StringIO()
    logs.set_up("debug", no_color=True, stream=stream)
    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("trouble")
    assert [line.split("] ")[1] for line in stream.getvalue().splitlines()] == ["WARNING  trouble"]


def test_libraries_are_no_louder_than_ourselves() -> None:
    stream = io.StringIO()
    logs.set_up("error", no_color=True, stream=stream)
    logging.getLogger("uvicorn.error").warning("trouble")
    assert stream.getvalue() == ""


def test_a_traceback_comes_below_its_line() -> None:
    stream = io.StringIO()
    logs.set_up("log", no_color=True, stream=stream)
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("x").exception("outer")
    assert re.search(r"ERROR    outer\nTraceback .*ValueError: inner", stream.getvalue(), re.DOTALL)


def test_setting_up_again_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.set_up("log", no_color=True, stream=first)
    logs.set_up("log", no_color=True, stream=second)
    logging.getLogger("x").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


SECRET = "p@ss/word-7"
SPELT = "p%40ss%2Fword-7"


@pytest.mark.parametrize(
    "settings",
    [
        Settings(api_key=SECRET),
        Settings(mt_photos_key=SECRET),
        Settings(hf_token=SECRET),
        Settings(upstream=f"http://user:{SPELT}@host:3003"),
        Settings(upstream=f"http://{SPELT}@host:3003"),
        Settings(upstream=f"http://host:3003/key/{SPELT}"),
        Settings(hf_endpoint=f"https://user:{SPELT}@mirror"),
        Settings(model_source=parse_preference(f"modelscope=https://user:{SPELT}@mirror")),
        Settings(proxies=(f"http://user:{SPELT}@proxy:3128",)),
        Settings(proxies=(f"user:{SPELT}@proxy:3128",)),
    ],
    ids=lambda settings: str(settings.upstream or settings.hf_endpoint or settings.proxies or "key")[:12],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_secret_that_a_library_names_is_blanked(settings: Settings, as_json: bool) -> None:
    stream = io.StringIO()
    logs.set_up("debug", no_color=True, as_json=as_json, redact=logs.Redaction(settings), stream=stream)
    logger = logging.getLogger("x")
    logger.info("asking https://user:%s@host for user", SPELT)
    try:
        raise ValueError(f"wrong: {SECRET}")
    except ValueError:
        logger.exception("and %s", SECRET)
    text = stream.getvalue()
    assert SECRET not in text
    assert SPELT not in text
    assert text.count("***") == 3
    assert "for user" in text


def test_a_word_is_no_secret() -> None:
    redact = logs.Redaction(Settings(api_key="log", upstream="http://user:pw@host"))
    assert redact("the log of a user, pw") == "the log of a user, pw"
    assert redact.document({"a": ["b", 1, None, {"c": "d"}]}) == {"a": ["b", 1, None, {"c": "d"}]}


def test_the_default_stream_is_stderr() -> None:
    logs.set_up("log", no_color=True)
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream in (sys.stderr, sys.__stderr__)


def test_as_json_each_line_is_an_object_whatever_the_message() -> None:
    stream = io.StringIO()
    logs.set_up("debug", no_color=False, as_json=True, stream=stream)
    token = logs.REQUEST.set("r7")
    logging.getLogger("x").warning("two\nlines and 中文 \x1b")
    logs.REQUEST.reset(token)
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("x").exception("outer")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["level"], first["logger"], first["request"]) == ("warning", "x", "r7")
    assert first["message"] == "two\nlines and 中文 \x1b"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert "request" not in second
    assert second["traceback"].endswith("ValueError: inner")


def test_debug_lines_bear_the_number_of_their_request_and_others_do_not() -> None:
    stream = io.StringIO()
    logs.set_up("debug", no_color=True, stream=stream)
    token = logs.REQUEST.set("r7")
    logging.getLogger("x").debug("fine")
    logging.getLogger("x").info("plain")
    logs.REQUEST.reset(token)
    fine, plain = stream.getvalue().splitlines()
    assert fine.endswith("fine [r7]")
    assert plain.endswith("plain")


def test_lines_for_people_are_in_their_language_and_json_is_english() -> None:
    lines = []
    for as_json in (False, True):
        stream = io.StringIO()
        logs.set_up("log", no_color=True, as_json=as_json, language="zh", stream=stream)
        logging.getLogger("immich_ml_cn.test").info("loading %s", "clip")
        lines.append(stream.getvalue())
    assert lines[0].endswith("] INFO     正在加载 clip\n")
    assert json.loads(lines[1])["message"] == "loading clip"
