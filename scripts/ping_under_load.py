#!/usr/bin/env python3
"""How fast /ping answers while models load and while all lanes are busy: prints one line of figures for each.

    scripts/ping_under_load.py [--seconds 20] [--threads 8]

Starts its own server on the CPU with the tests' models (CLIP and faces random, PP-OCRv6_small real).
"""

import argparse
import io
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

from PIL import Image  # noqa: E402
from server import FACE_TASK, OCR_TASK, TEXTUAL, VISUAL, RunningServer, fill_cache, predict_form  # noqa: E402


def ping(server: RunningServer, is_over: Callable[[], bool]) -> list[float]:
    """Ping every 5 ms on one kept connection until it is over; the times in ms."""
    times = []
    with server.client() as client:
        client.get("/ping")
        while not is_over():
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast /ping answers under load.")
    parser.add_argument("--seconds", type=float, default=20, help="length of the busy part")
    parser.add_argument("--threads", type=int, default=8, help="clients of the busy part")
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


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


if __name__ == "__main__":
    main()
