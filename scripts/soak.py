#!/usr/bin/env python3
"""A long run: mixed requests against a real server, every answer compared with one that a quiet server gave.

    scripts/soak.py [--seconds 600] [--clients 4] [--json soak.json] [--plot docs/soak.png]

All tasks, sizes and shapes, two CLIP models, 5 % broken requests, 2 % that are small and much work, 1 % clients
that leave. A tenth of the photos are new ones, which text search keeps. Every 20 seconds other models are asked for,
so that idle ones (after 6 s) are unloaded and loaded again. Memory, threads and open files are sampled every second.
SIGTERM comes while a costly picture is decoded.
Exit code 1 when an answer was lost or wrong, when one of the three grew, or when the server did not end in time.
"""

import argparse
import io
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

import clip_models  # noqa: E402
import corpus  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from server import (  # noqa: E402
    BOUNDARY,
    CLIP,
    CONTENT_TYPE,
    FACE_DETECTION,
    FACE_TASK,
    OCR_TASK,
    TEXTUAL,
    VISUAL,
    Client,
    RunningServer,
    fill_cache,
    http_request,
    predict_form,
)

OTHER_CLIP = "ViT-B-16__laion400m_e32"
SIZES = ((64, 48), (37, 211), (640, 480), (480, 640), (1024, 300), (1440, 1080), (1, 1), (2000, 40))
WIDE = 1536
"""Makes an image tower of 67 MB: large enough for its weights to be packed."""

PHASE_S = 20.0
BROKEN_SHARE, COSTLY_SHARE, LEAVING_SHARE, NEW_SHARE = 0.05, 0.02, 0.01, 0.1
COSTLY_SCALE = 0.1
"""Of the corpus' costly pictures: they are to be answered often."""

GRACE_S = 10
"""Seconds that requests have after SIGTERM."""

CLOSING_S = 8
"""Seconds more in which the process ends."""

MAX_GROWTH_MB = 40.0
MAX_MORE = 8
"""Threads and open files that the second half may have over the first."""


@dataclass(frozen=True)
class Case:
    """One kind of request: the phase it belongs to, how to ask, what comes back."""

    phase: str
    body: bytes
    status: int
    answer: Any
    content_type: str = CONTENT_TYPE

    def new(self, chance: random.Random) -> "Case":
        """The same with more bytes at the end of the form's last field, which is the photo: they mean nothing there."""
        photo, boundary, end = self.body.rpartition(f"\r\n--{BOUNDARY}--".encode())
        return replace(self, body=photo + chance.randbytes(16) + boundary + end)


@dataclass(frozen=True)
class Sample:
    """The server at one moment."""

    second: float
    resident_mb: float
    threads: int
    files: int
    answered: int


@dataclass
class Outcome:
    """What a run gave."""

    samples: list[Sample] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left: int = 0
    unloads: int = 0
    tracebacks: int = 0
    kept: dict[str, Any] = field(default_factory=dict)
    """What text search has kept, as ``/status`` says."""
    exit_code: int = -1
    stop_s: float = 0

    def growth(self, what: str) -> float:
        """The highest value of the second half less that of the first: models come and go, their peaks may not rise."""
        values = [float(getattr(sample, what)) for sample in self.samples]
        half = max(1, len(values) // 2)
        return max(values[half:], default=0.0) - max(values[:half])

    def complaints(self, growth_mb: float = MAX_GROWTH_MB) -> list[str]:
        """What is not as it should be."""
        found = [*self.lost[:5], *self.wrong[:5]]
        if self.growth("resident_mb") > growth_mb:
            found.append(f"memory grew by {self.growth('resident_mb'):.0f} MB")
        found += [
            f"{what} grew by {self.growth(what):.1f}" for what in ("threads", "files") if self.growth(what) > MAX_MORE
        ]
        if self.tracebacks:
            found.append(f"{self.tracebacks} tracebacks in the log")
        if self.kept.get("lost") or self.kept.get("failure"):
            found.append(f"text search has lost photos: {self.kept}")
        if self.exit_code:
            found.append(f"the server ended with {self.exit_code}")
        if self.stop_s > GRACE_S + CLOSING_S:
            found.append(f"the server took {self.stop_s:.0f} s to end")
        return found

    def report(self, growth_mb: float) -> dict[str, Any]:
        """The figures."""
        middle = [sample.resident_mb for sample in self.samples[len(self.samples) // 4 :]]
        return {
            "seconds": round(self.samples[-1].second),
            "requests": sum(self.answered.values()),
            "byPhaseAndStatus": dict(sorted(self.answered.items())),
            "clientsThatLeft": self.left,
            "lost": len(self.lost),
            "wrong": len(self.wrong),
            "unloads": self.unloads,
            "tracebacks": self.tracebacks,
            "textSearch": {what: self.kept.get(what) for what in ("photos", "texts", "bytes", "lost")},
            "exitCode": self.exit_code,
            "secondsToEnd": round(self.stop_s, 1),
            "residentMb": {"min": round(min(middle)), "mean": round(_mean(middle)), "max": round(max(middle))},
            "growth": {what: round(self.growth(what), 1) for what in ("resident_mb", "threads", "files")},
            "threads": {"max": max(s.threads for s in self.samples), "last": self.samples[-1].threads},
            "files": {"max": max(s.files for s in self.samples), "last": self.samples[-1].files},
            "complaints": self.complaints(growth_mb),
        }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def pictures() -> list[bytes]:
    """The sample in all sizes, and in several formats."""
    sample = Image.open(ROOT / "docs" / "sample.jpg").convert("RGB")
    kinds = ("JPEG", "PNG", "WEBP", "TIFF")
    files = []
    for number, size in enumerate(SIZES):
        stream = io.BytesIO()
        sample.resize(size).save(stream, kinds[number % len(kinds)])
        files.append(stream.getvalue())
    return files


def asked(files: list[bytes]) -> list[tuple[str, bytes]]:
    """Every kind of good request, with its phase."""
    other = json.loads(json.dumps({"visual": VISUAL, "textual": TEXTUAL}).replace(CLIP, OTHER_CLIP))
    kinds: list[tuple[str, Any]] = [
        ("clip", VISUAL),
        ("other clip", other["visual"]),
        ("faces", FACE_TASK),
        ("faces", FACE_DETECTION),
        ("ocr", OCR_TASK),
        ("all", {**VISUAL, **FACE_TASK, **OCR_TASK}),
    ]
    texts = ("cat", "海边的日落", "生日蛋糕 " * 40)
    found = [(phase, predict_form(entries, file)) for phase, entries in kinds for file in files]
    return found + [
        (phase, predict_form(entries, text=text))
        for phase, entries in (("clip", TEXTUAL), ("other clip", other["textual"]))
        for text in texts
    ]


def broken(files: list[bytes]) -> list[bytes]:
    """Requests that are refused, each in its own way."""
    return [
        predict_form({}, files[0]),
        predict_form({"clip": {"visual": {"modelName": "../../etc/passwd"}}}, files[0]),
        predict_form(VISUAL, files[2][: len(files[2]) // 2]),
        predict_form(VISUAL, b""),
        predict_form(VISUAL),
        predict_form("[" * 5000),
        predict_form(VISUAL, files[0])[:-30],
    ]


def costly() -> list[tuple[bytes, str]]:
    """Small requests that are much work, each with its content type."""
    pictures = [(predict_form(VISUAL, picture), CONTENT_TYPE) for _, picture in corpus.costly_pictures(COSTLY_SCALE)]
    texts = [
        (predict_form(TEXTUAL, text=text), CONTENT_TYPE)
        for size in (60_000, 1_000_000)
        for _, text in corpus.costly_texts(size)
    ]
    return [*pictures, *texts, (b"entries=%7b%7d&text=" + b"%61" * 2_000_000, "application/x-www-form-urlencoded")]


class Soak:
    """One run against one server."""

    def __init__(self, server: RunningServer, seconds: float) -> None:
        self._server = server
        self._end = time.monotonic() + seconds
        self._lock = threading.Lock()
        self.outcome = Outcome()

    def run(self, cases: list[Case], rare: list[Case], clients: int) -> Outcome:
        """Ask until the time is over."""
        with ThreadPoolExecutor(clients + 1) as pool:
            jobs = [pool.submit(self._ask, random.Random(number), cases, rare) for number in range(clients)]
            jobs.append(pool.submit(self._watch))
            for job in jobs:
                job.result()
        with self._server.client() as client:
            self.outcome.kept = client.get("/status").json["textSearch"]
        self.outcome.unloads = self._server.log.count("unloaded ")
        self.outcome.tracebacks = self._server.log.count("Traceback")
        self._stop()
        return self.outcome

    def _stop(self) -> None:
        with self._server.connect() as connection:
            connection.sendall(http_request(predict_form(VISUAL, corpus.slowest_picture())))
            time.sleep(1)  # until it is decoded
            started = time.monotonic()
            self.outcome.exit_code = self._server.stop()
            self.outcome.stop_s = time.monotonic() - started

    def _ask(self, chance: random.Random, cases: list[Case], rare: list[Case]) -> None:
        bad, costly = ([case for case in rare if case.phase == phase] for phase in ("broken", "costly"))
        phases = sorted({case.phase for case in cases})
        started = time.monotonic()
        with self._server.client(timeout=120) as client:
            while time.monotonic() < self._end:
                phase = phases[int((time.monotonic() - started) / PHASE_S) % len(phases)]
                draw = chance.random()
                if draw < LEAVING_SHARE:
                    self._leave(chance.choice(cases))
                elif draw < LEAVING_SHARE + BROKEN_SHARE:
                    self._compare(client, chance.choice(bad))
                elif draw < LEAVING_SHARE + BROKEN_SHARE + COSTLY_SHARE:
                    self._compare(client, chance.choice(costly))
                else:
                    case = chance.choice([case for case in cases if case.phase == phase])
                    is_new = b'name="image"' in case.body and chance.random() < NEW_SHARE
                    self._compare(client, case.new(chance) if is_new else case)

    def _compare(self, client: Client, case: Case) -> None:
        from server import assert_equal_answers

        try:
            reply = client.post(case.body, case.content_type)
        except OSError as error:
            with self._lock:
                self.outcome.lost.append(f"{case.phase}: {error!r}")
            client.__exit__()
            return
        problem = "" if reply.status == case.status else f"{case.phase}: {reply.status} {reply.body[:200]!r}"
        try:
            assert_equal_answers(reply.json, case.answer)
        except (AssertionError, ValueError, KeyError) as error:
            problem = problem or f"{case.phase}: another answer: {str(error)[:200]}"
        with self._lock:
            self.outcome.answered[f"{case.phase} {reply.status}"] += 1
            if problem:
                self.outcome.wrong.append(problem)

    def _leave(self, case: Case) -> None:
        with self._server.connect() as connection:
            connection.sendall(http_request(case.body))
        with self._lock:
            self.outcome.left += 1

    def _watch(self) -> None:
        started = time.monotonic()
        over = threading.Event()
        while time.monotonic() < self._end:
            sample = Sample(
                second=round(time.monotonic() - started, 1),
                resident_mb=round(self._server.resident_mb, 1),
                threads=len(os.listdir(f"/proc/{self._server.process.pid}/task")),  # noqa: PTH208 - of another process
                files=self._server.open_files,
                answered=sum(self.outcome.answered.values()),
            )
            self.outcome.samples.append(sample)
            over.wait(1)


def soak(folder: Path, seconds: float, clients: int = 4) -> Outcome:
    """Run against a server of its own, with its cache in `folder`."""
    cache = fill_cache(folder)
    shutil.copytree(cache / "clip" / CLIP, cache / "clip" / OTHER_CLIP)
    with patch.multiple(clip_models, WIDTH=WIDE, DIMENSION=512):
        clip_models.save_visual(cache / "clip" / OTHER_CLIP / "visual" / "model.onnx")
    with RunningServer(cache) as quiet, quiet.client() as client:
        files = pictures()
        good = [(phase, body, client.post(body)) for phase, body in asked(files)]
        bad = [(body, client.post(body)) for body in broken(files)]
        slow = [(body, kind, client.post(body, kind)) for body, kind in costly()]
    assert {reply.status for _, _, reply in good} == {200}
    assert all(400 <= reply.status < 500 for _, reply in bad)
    assert {reply.status for _, _, reply in slow} == {200, 413}
    environ = {
        "MACHINE_LEARNING_MODEL_TTL": "6",
        "MACHINE_LEARNING_MODEL_TTL_POLL_S": "1",
        "MACHINE_LEARNING_SHUTDOWN_TIMEOUT_S": str(GRACE_S),
    }
    with RunningServer(cache, **environ) as server:
        return Soak(server, seconds).run(
            [Case(phase, body, 200, reply.json) for phase, body, reply in good],
            [
                *(Case("broken", body, reply.status, reply.json) for body, reply in bad),
                *(Case("costly", body, reply.status, reply.json, kind) for body, kind, reply in slow),
            ],
            clients,
        )


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Memory, threads, open files and answers over time, one below the other."""
    panels = (
        ("resident_mb", "resident memory, MB"),
        ("threads", "threads"),
        ("files", "open files"),
        ("answered", "answers"),
    )
    width, height, left, top = 900, 150, 60, 24
    image = Image.new("RGB", (width + left + 20, (height + top + 16) * len(panels) + 20), "white")
    draw = ImageDraw.Draw(image)
    last = samples[-1].second or 1
    for number, (what, title) in enumerate(panels):
        values = [float(getattr(sample, what)) for sample in samples]
        highest = max(values) * 1.1 or 1
        bottom = (height + top + 16) * (number + 1)
        draw.text((left, bottom - height - top), f"{title} (up to {max(values):,.0f})", fill="black")
        draw.rectangle((left, bottom - height, left + width, bottom), outline="#888888")
        for share in (0.25, 0.5, 0.75):
            y = bottom - round(height * share)
            draw.line((left, y, left + width, y), fill="#dddddd")
            draw.text((4, y - 6), f"{highest * share:,.0f}", fill="#555555")
        points = [
            (left + width * sample.second / last, bottom - height * value / highest)
            for sample, value in zip(samples, values, strict=True)
        ]
        draw.line(points, fill="#1f5fa8", width=2)
    draw.text((left, image.height - 18), f"0 to {last:,.0f} seconds", fill="black")
    image.save(path, optimize=True)


def main() -> int:
    """Run, print the figures, and say whether all is well."""
    parser = argparse.ArgumentParser(description="A long run with every answer compared.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--json", type=Path, help="where the figures and samples go")
    parser.add_argument("--plot", type=Path, help="where the plot goes")
    parser.add_argument("--growth-mb", type=float, default=MAX_GROWTH_MB, help="how far memory's peak may rise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = soak(Path(folder), options.seconds, options.clients)
    report = outcome.report(options.growth_mb)
    if options.json:
        options.json.write_text(json.dumps({**report, "samples": [asdict(s) for s in outcome.samples]}) + "\n")
    if options.plot:
        plot(outcome.samples, options.plot)
    print(json.dumps(report, indent=1, ensure_ascii=False))
    return int(bool(report["complaints"]))


if __name__ == "__main__":
    sys.exit(main())
