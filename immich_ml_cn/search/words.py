"""Which characters are words where they stand: 鸡 is one in 香辣鸡腿 only where the dictionary says so.

For the order of what single characters find; nothing is found or lost by it. Dictionaries cut text wrongly often enough
that searching by their words loses a quarter of it and more, see `benchmarks/segmentation.py`.
"""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, cast

from immich_ml_cn.engines import child_process

IDLE_S: Final = 300
"""Seconds without a question after which the process ends: it has 50 MB."""


class Words:
    """Jieba's dictionary in a process of its own: loading it would hold Python's lock for an eighth of a second.

    It starts with the first question and ends when nobody asks any more, or with the thread that asked. Of one thread.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def stand_alone(self, word: str, texts: Sequence[str]) -> list[bool]:
        """For each text, whether a word stands in it and is no part of a longer one; False where nobody can tell."""
        question = json.dumps([word, texts]).encode() + b"\n"
        try:
            answers: list[bool] = json.loads(self._answer(question) or self._answer(question))
        except (OSError, ValueError):
            return [False] * len(texts)
        return answers

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            with suppress(BrokenPipeError):  # of a question that it never read
                self._process.communicate()
        self._process = None

    def _answer(self, question: bytes) -> bytes:
        """The answer of the process; empty where it has ended, and then another is started for the next question."""
        if self._process is None:
            command = child_process.command(__name__, "main")
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - ours
        questions, answers = cast(io.BufferedWriter, self._process.stdin), cast(io.BufferedReader, self._process.stdout)
        answer = b""
        with suppress(BrokenPipeError):
            questions.write(question)
            questions.flush()
            answer = answers.readline()
        if not answer:
            self.close()
        return answer


def main() -> None:
    """Answer the questions on standard input, each a line of JSON, until there is none for a while."""
    child_process.end_first_when_memory_is_short()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import rjieba

    signal.alarm(IDLE_S)
    for question in sys.stdin.buffer:
        signal.alarm(0)
        word, texts = json.loads(question)
        answers = [any(word in rjieba.cut(line) for line in text.split("\n") if word in line) for text in texts]
        sys.stdout.write(json.dumps(answers) + "\n")
        sys.stdout.flush()
        signal.alarm(IDLE_S)
