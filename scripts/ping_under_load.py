#!/usr/bin/env python3
"""How fast /ping answers while models load, all lanes are busy, or costly requests come: prints a line for each.

    scripts/ping_under_load.py [--seconds 20] [--threads 8] [--times 5]

Starts its own server on the CPU with the tests' models (CLIP and faces random, PP-OCRv6_small real).
"""

import argparse
import io
import json
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

import corpus  # noqa: E402
from PIL import Image  # noqa: E402
from server import (  # noqa: E402
    CONTENT_TYPE,
    FACE_TASK,
    OCR_TASK,
    TEXTUAL,
    VISUAL,
    RunningServer,
    fill_cache,
    predict_form,
)

URLENCODED = "application/x-www-form-urlencoded"


def ping(server: RunningServer, is_over: Callable[[], bool]) -> list[float]:
    """Ping every 5 ms on one kept connection until it is over; the times in ms."""
    times: list[float] = []
    with server.client() as client:
        client.get("/ping")
        while not times or not is_over():
            started = time.perf_counter()
            assert client.get("/ping").body == b"pong"
            times.append((time.perf_counter() - started) * 1000)
            time.sleep(0.005)
    return times


def report(what: str, times: list[float], more: str = "") -> None:
    """Print count, median, p99 and maximum."""
    ordered = sorted(times)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    print(f"{what}: {len(times)} pings, p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {ordered[-1]:.1f} ms{more}", flush=True)


def while_loading(server: RunningServer, sample: bytes) -> list[float]:
    """Ping while every model loads for the first request that asks for it."""
    bodies = [predict_form({**VISUAL, **FACE_TASK, **OCR_TASK}, sample), predict_form(TEXTUAL, text="海边的日落")]

    def ask() -> None:
        for body in bodies:
            with server.client() as client:
                assert client.post(body).status == 200

    asking = threading.Thread(target=ask)
    asking.start()
    times = ping(server, lambda: not asking.is_alive())
    asking.join()
    return times


def while_busy(server: RunningServer, sample: bytes, seconds: float, threads: int) -> tuple[list[float], int]:
    """Ping while clients keep all lanes busy; the times, and how many requests were answered."""
    bodies = [predict_form({**VISUAL, **FACE_TASK, **OCR_TASK}, sample), predict_form(TEXTUAL, text="海边的日落")]
    end = time.monotonic() + seconds
    answered: list[int] = []

    def ask(number: int) -> None:
        with server.client(timeout=120) as client:
            while time.monotonic() < end:
                assert client.post(bodies[number % 4 == 3]).status == 200
                answered.append(number)

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for thread in asking:
        thread.start()
    times = ping(server, lambda: time.monotonic() >= end)
    for thread in asking:
        thread.join()
    return times, len(answered)


def while_costly(server: RunningServer, body: bytes, content_type: str, times: int) -> tuple[list[float], str]:
    """Ping while a client sends a request a few times; the times of the pings, and how it was answered."""
    answers: list[str] = []

    def ask() -> None:
        with server.client(timeout=300) as client:
            for _ in range(times):
                started = time.perf_counter()
                status = client.post(body, content_type).status
                answers.append(f"{status} after {time.perf_counter() - started:.2f} s")

    asking = threading.Thread(target=ask)
    asking.start()
    pings = ping(server, lambda: not asking.is_alive())
    asking.join()
    return pings, answers[-1]


def costly() -> Iterator[tuple[str, bytes, str]]:
    """What costs most: name, body and content type of each request."""
    for name, picture in corpus.costly_pictures():
        yield name, predict_form(VISUAL, picture), CONTENT_TYPE
    for size in (1_000_000, 65_000):
        for name, text in corpus.costly_texts(size):
            yield f"{name}, {size:,} bytes", predict_form(TEXTUAL, text=text), CONTENT_TYPE
    for size in (6_000_000, 65_000):
        form = urllib.parse.urlencode({"entries": json.dumps(TEXTUAL)}).encode()
        yield f"urlencoded, {size:,} bytes", form + b"&text=" + b"%61" * (size // 3 - 60), URLENCODED


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast /ping answers under load.")
    parser.add_argument("--seconds", type=float, default=20, help="length of the busy part")
    parser.add_argument("--threads", type=int, default=8, help="clients of the busy part")
    parser.add_argument("--times", type=int, default=5, help="how often each costly request is sent; 0: leave them out")
    options = parser.parse_args()
    sample = (ROOT / "docs" / "sample.jpg").read_bytes()
    large = io.BytesIO()
    Image.open(ROOT / "docs" / "sample.jpg").resize((1920, 1440)).save(large, "JPEG", quality=80, subsampling=0)
    with tempfile.TemporaryDirectory() as folder, RunningServer(fill_cache(Path(folder))) as server:
        report("idle", ping(server, _after(2)))
        report("while models load", while_loading(server, sample))
        for name, image in (("sample", sample), ("1920x1440", large.getvalue())):
            times, answered = while_busy(server, image, options.seconds / 2, options.threads)
            report(f"all lanes busy, {name}", times, f"; {answered} requests answered meanwhile")
        for name, body, content_type in costly() if options.times else ():
            times, answer = while_costly(server, body, content_type, options.times)
            report(name, times, f"; {answer}")


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


if __name__ == "__main__":
    main()
