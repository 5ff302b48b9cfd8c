"""`python -m benchmarks.search`: text search at a given number of photos: time, memory, disk, and what comes first.

A library is made up and written into a new folder by another process; then its photos are searched for, as the server
does, and every result is looked at. `--segmentation` compares bigrams with words instead.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from search_libraries import Kind, Library, Vectors, embedded_text, made_up  # noqa: E402 - of tests/

from immich_ml_cn.search.folder import Folder  # noqa: E402
from immich_ml_cn.search.query import for_text  # noqa: E402
from immich_ml_cn.search.searcher import Searcher  # noqa: E402
from immich_ml_cn.search.writer import SeenPicture, SeenText, Writer  # noqa: E402

MODEL: Final = "clip/made-up"
COUNTS: Final = (1, 5, 10, 20, 32)
MORE: Final = (60, 150, 600)
"""Matches that have no place for all."""

EVERYWHERE: Final = "everywhere"
"""A word in every fifth photo."""

MANY: Final = 10_000_000
COMMON: Final = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出"
    "就分对成会可主发年动同工也能下过子说产种面而方后多定行学"
)


@dataclass(frozen=True)
class Measured:
    """One search: photos found, whether the best stood before all others, seconds, and seconds of CPU."""

    found: int
    is_clean: bool
    seconds: float
    cpu: float


def main(arguments: list[str]) -> int:
    """Measure, and print the rows of a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--photos", type=int, default=30_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--draws", type=int, default=3, help="of each kind and number of matches")
    parser.add_argument("--limit", type=float, default=1.0, help="seconds that a vector is sought for")
    parser.add_argument("--segmentation", action="store_true")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.segmentation:
        from .segmentation import compare

        compare()
    elif options.build:
        build(options.build, options.photos, options.dimension, options.draws)
    else:
        measure(options.photos, options.dimension, options.draws, options.limit)
    return 0


def words(dimension: int, draws: int) -> Iterator[tuple[str, Kind, int]]:
    """A word for each draw of matches, which stands in those photos only; their kind and number."""
    room = dimension // 16
    counts = (*(count for count in COUNTS if count <= room), *({room} - set(COUNTS)), *MORE)
    for kind in Kind:
        for count in counts:
            for draw in range(draws):
                yield f"{kind.value}{'abc'[draw]}{'x' * (counts.index(count) + 1)}", kind, count


def digest(number: int) -> bytes:
    """Of a made-up photo."""
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


# --- another process makes the library ---


def build(cache: Path, count: int, dimension: int, draws: int) -> None:
    """Write a library through the server's own writer, and what that took."""
    library = made_up(count, dimension)
    texts = made_up_texts(library, dimension, draws)
    writer, began = Writer(Folder(cache, MANY), interval_s=0.0), time.process_time()
    for number in range(count):
        writer.put(SeenPicture(digest(number), MODEL, library.vectors[number]))
        writer.put(SeenText(digest(number), texts[number]))
        while number % 2000 == 1999 and writer._queue.qsize() > 4000:
            time.sleep(0.01)
    assert writer.close(3600)
    assert writer.failure is None
    contents = Folder(cache, MANY).contents()
    spent = time.process_time() - began
    print(json.dumps({"ms_per_photo": 1000 * spent / count, "bytes_per_photo": contents.size / count}))


def made_up_texts(library: Library, dimension: int, draws: int) -> list[tuple[str, ...]]:
    """Two lines of common characters for every photo, each of which two in five have, and the words."""
    random = np.random.default_rng(1)
    drawn = random.choice(list(COMMON), (len(library.vectors), 2, 14))
    lines = [["".join(line) for line in photo] for photo in drawn]
    for seed, (word, kind, count) in enumerate(words(dimension, draws)):
        try:
            for index in library.with_text(kind, count, np.random.default_rng(seed)):
                lines[index].append(word)
        except ValueError:  # no topic is that large
            continue
    for photo in lines[::5]:
        photo.append(EVERYWHERE)
    return [tuple(photo) for photo in lines]


# --- this process searches ---


def measure(count: int, dimension: int, draws: int, limit_s: float) -> None:
    """Search for every word; print what each kind and number of matches took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.search", "--build", folder]
        command += ["--photos", str(count), "--dimension", str(dimension), "--draws", str(draws)]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        written = json.loads(answer.stdout.splitlines()[-1])
        print(f"{count} photos of {dimension} numbers, {os.cpu_count()} cores: ", end="")
        print(f"written in {written['ms_per_photo']:.2f} ms of CPU and {written['bytes_per_photo']:.0f} bytes a photo")
        with Memory() as memory:
            searcher = Searcher(Folder(Path(folder), MANY), threads=min(2, os.cpu_count() or 1), time_limit_s=limit_s)
            _measure_words(searcher, dimension, draws)
        print(f"memory beside the mapped file: {memory.added:.0f} MB more at the most")
        _measure_lift(searcher, count, dimension, draws)


def _measure_words(searcher: Searcher, dimension: int, draws: int) -> None:
    print("matches | kind | found | placed all first | s, longest | s of CPU, mean", flush=True)
    drawn = list(words(dimension, draws))
    for start in range(0, len(drawn), draws):
        rows = [_search(searcher, f'"{word}"', dimension) for word, _, _ in drawn[start : start + draws]]
        if start == 0:
            print(f"the first search of all took {rows[0].seconds:.3f} s, {rows[0].cpu:.3f} s of CPU")
        _print(f"{drawn[start][2]} | {drawn[start][1]}", rows)
    _print("of five photos one | a word", [_search(searcher, EVERYWHERE, dimension) for _ in range(draws)])
    _print("of five photos two | a character", [_search(searcher, one, dimension) for one in COMMON[:draws]])


def _print(kind: str, rows: list[Measured]) -> None:
    clean, longest = sum(row.is_clean for row in rows), max(row.seconds for row in rows)
    cpu = np.mean([row.cpu for row in rows])
    print(f"{kind} | {rows[0].found} | {clean} of {len(rows)} | {longest:.3f} | {cpu:.3f}", flush=True)


def _search(searcher: Searcher, query: str, dimension: int) -> Measured:
    started, spent = time.perf_counter(), time.process_time()
    found = searcher.find(MODEL, dimension, for_text(query))
    is_clean = bool(len(found)) and searcher.steer(found).intruders == 0
    return Measured(len(found), is_clean, time.perf_counter() - started, time.process_time() - spent)


def _measure_lift(searcher: Searcher, photos: int, dimension: int, draws: int) -> None:
    library = made_up(photos, dimension)
    random = np.random.default_rng(2)
    print("matches | kind | lifted, least | CLIP's best 100 kept, least | s, longest")
    drawn = list(words(dimension, draws))
    for start in range(0, len(drawn), draws):
        _, kind, count = drawn[start]
        if count > 5:
            continue
        texts = [embedded_text(library, int(library.topics[random.integers(photos)]), random) for _ in range(draws)]
        rows = [_lift(searcher, drawn[start + draw][0], text) for draw, text in enumerate(texts)]
        lifted, kept, seconds = (np.array(column) for column in zip(*rows, strict=True))
        print(f"{count} | {kind} | {lifted.min()} | {kept.min():.1%} | {seconds.max():.3f}", flush=True)


def _lift(searcher: Searcher, word: str, text: Vectors) -> tuple[int, float, float]:
    """How many photos are lifted, the share of CLIP's best that stays, and the seconds that it took."""
    started = time.perf_counter()
    found = searcher.find(MODEL, len(text), for_text(f'"{word}"'), misread=False)
    lifted = searcher.lift(found, text)
    seconds = time.perf_counter() - started
    return (lifted.count, lifted.kept, seconds) if lifted else (0, 1.0, seconds)


class Memory:
    """The most memory that is no file's which this process has while it is looked at, in MB."""

    def __enter__(self) -> "Memory":
        self._before = self.most = _anonymous_mb()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def added(self) -> float:
        """MB more than there were at the beginning."""
        return self.most - self._before

    def _look(self) -> None:
        while not self._ended.wait(0.005):
            self.most = max(self.most, _anonymous_mb())


def _anonymous_mb() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
