"""The program's commands, in the tests' own process."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from immich_ml_cn.cli import parser
from immich_ml_cn.messages import Translator
from immich_ml_cn.settings import Settings


@dataclass(frozen=True)
class Printed:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Printed]
"""Runs a command with arguments; keyword arguments are more of its environment."""


def command(capsys: pytest.CaptureFixture[str], *words: str, **environ: str) -> Run:
    """What runs a command that begins with some words in an environment of nothing but `environ`."""

    def run(*arguments: str, **more: str) -> Printed:
        options = parser(Translator()).parse_args([*words, *arguments])
        code = options.command(Settings.from_env({**environ, **more}), options)
        captured = capsys.readouterr()
        return Printed(code, captured.out, captured.err)

    return run
