"""What the gateway adds to a search: each kind of search against a fake Immich directly and through us, in turns.

    python -m benchmarks.gateway [--rounds 200]

Prints the median and the 95th percentile of both in ms, and of the difference within a round.
"""

import argparse
import http.client
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fake_immich import FakeImmich, Photo  # noqa: E402
from server import RunningServer  # noqa: E402

PHOTOS = 2_000
COOKIE = {"cookie": "immich_access_token=token", "content-type": "application/json"}
QUERIES = {
    "plain": "menu",
    "by text": "ocr:menu",
    "two words": "ocr:menu 发票",
    "by text and meaning": "ocr:menu clip:red",
}


def library() -> FakeImmich:
    """Every tenth photo has one word, every thirtieth both."""
    texts = ("menu" * (number % 10 == 0) + " 发票" * (number % 15 == 0) for number in range(PHOTOS))
    photos = [
        Photo(f"{number:08x}-1111-4111-8111-111111111111", "anna", text, f"20{number % 26:02}-01-01")
        for number, text in enumerate(texts)
    ]
    return FakeImmich(photos, {"token": "anna"})


def ask(connection: http.client.HTTPConnection, query: str) -> float:
    """One search; its time in ms."""
    body = json.dumps({"query": query, "page": 1})
    started = time.perf_counter()
    connection.request("POST", "/api/search/smart", body.encode(), COOKIE)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200
    return (time.perf_counter() - started) * 1000


def percentile95(values: list[float]) -> float:
    """The 95th percentile."""
    return sorted(values)[len(values) * 95 // 100]


def main() -> None:
    """Measure each kind of search in both modes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    rounds: int = parser.parse_args().rounds
    print("mode, search: Immich p50 / p95, through us p50 / p95, added p50 / p95 (ms)")
    for mode in ("prefix", "hybrid"):
        with library().running() as immich, tempfile.TemporaryDirectory() as cache:
            settings = {"MACHINE_LEARNING_IMMICH_URL": f"http://127.0.0.1:{immich.port}"}
            with RunningServer(Path(cache), MACHINE_LEARNING_TEXT_SEARCH=mode, **settings) as server:
                direct, through = (
                    http.client.HTTPConnection("127.0.0.1", p, timeout=60) for p in (immich.port, server.port)
                )
                for name, query in QUERIES.items():
                    ask(direct, query), ask(through, query)
                    pairs = [(ask(direct, query), ask(through, query)) for _ in range(rounds)]
                    columns = [[a for a, _ in pairs], [b for _, b in pairs], [b - a for a, b in pairs]]
                    print(f"{mode}, {name}: " + ", ".join(f"{median(c):.1f} / {percentile95(c):.1f}" for c in columns))


if __name__ == "__main__":
    main()
