"""``python -m benchmarks.ocr http://127.0.0.1:3003``: how right a server's text is, by kind, as a Markdown table.

To compare two versions, start each of them and name both; RapidOCR, called directly with its own settings, is compared
where the scenes are.
"""

import argparse
import json
import sys
import time
import unicodedata
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .drawing import CHINESE, draw, extent, jpeg, rotated
from .layouts import layouts
from .scenes import Scene, scenes

BOUNDARY = "ocr-benchmark"
MIN_SCORE = 0.5
SKEWS = (0, 3, -5)
Reader = Callable[[bytes], str]


def main(arguments: Sequence[str]) -> int:
    """Print the tables asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ocr", description=__doc__)
    parser.add_argument("url", nargs="+", help="of a running server; several are compared")
    parser.add_argument("--only", choices=("layouts", "scenes"), help="one of the two sets")
    parser.add_argument("--per-kind", type=int, default=27, help="scenes of each of the six kinds")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    parser.add_argument("--worst", type=int, default=0, help="name so many scenes that the first server reads worst")
    options = parser.parse_args(arguments)
    servers = {url: server(url) for url in options.url}
    if options.only != "scenes":
        compare("layouts", layout_pictures(), servers)
    if options.only != "layouts":
        compare("scenes", scenes(options.per_kind, options.seed), {**servers, "RapidOCR": rapidocr()}, options.worst)
    return 0


def compare(title: str, pictures: Iterator[Scene], readers: dict[str, Reader], worst: int = 0) -> None:
    """Print per kind the share of pictures whose text is all right, and the accuracy of its characters in order."""
    found: dict[str, dict[str, list[float]]] = {}
    notes: list[tuple[float, str, str]] = []
    started = time.monotonic()
    for scene in pictures:
        row = found.setdefault(scene.kind, {name: [] for name in readers})
        for name, read in readers.items():
            row[name].append(accuracy(text := read(scene.picture), scene.text))
            if name == next(iter(readers)):
                notes.append((row[name][-1], f"{scene.kind} {scene.name}", text))
    print(f"\n{title}, {time.monotonic() - started:.0f} s\n")
    print("| kind | pictures |", " | ".join(f"{name}: all right | characters" for name in readers), "|")
    print("|---|--:|" + "--:|--:|" * len(readers))
    for kind, row in found.items():
        _print_row(kind, row)
    _print_row("all", {name: [value for row in found.values() for value in row[name]] for name in readers})
    for value, name, text in sorted(notes)[:worst]:
        print(f"{value:.3f} {name}: {text}", file=sys.stderr)


def layout_pictures() -> Iterator[Scene]:
    """Each layout in one of the fonts, straight and a little tilted."""
    for number, layout in enumerate(layouts()):
        face = list(CHINESE)[number % len(CHINESE)]
        page = draw(layout.items, extent(layout.items), face, scale=1.5)
        text = "".join(item.text for item in layout.items)
        for angle in SKEWS:
            yield Scene(layout.kind, f"{layout.name}, {angle} degrees", text, jpeg(rotated(page, angle)))


def accuracy(read: str, drawn: str) -> float:
    """1 - the edit distance by the length of what was drawn, at least 0; spaces, widths and case of letters aside."""
    ours, theirs = _plain(read), _plain(drawn)
    return max(0.0, 1 - edit_distance(ours, theirs) / len(theirs))


def edit_distance(a: str, b: str) -> int:
    """Characters to insert, delete or replace (Levenshtein)."""
    codes = np.frombuffer(b.encode("utf-32-le"), np.uint32)
    row = np.arange(len(b) + 1)
    for number, character in enumerate(a, 1):
        replaced = row[:-1] + (codes != ord(character))
        best = np.concatenate([[number], np.minimum(replaced, row[1:] + 1)])
        # An insertion costs one more than what is left of it: the least of all those before.
        row = np.minimum.accumulate(best - np.arange(len(best))) + np.arange(len(best))
    return int(row[-1])


def server(url: str) -> Reader:
    """Asks a server of Immich's protocol."""

    def read(picture: bytes) -> str:
        request = urllib.request.Request(f"{url.rstrip('/')}/predict", _form(picture))
        request.add_header("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
        with urllib.request.urlopen(request, timeout=300) as answer:
            return "".join(json.load(answer)["ocr"]["text"])

    return read


def rapidocr() -> Reader:
    """RapidOCR with its own settings; a line counts from the same score."""
    from rapidocr import RapidOCR

    engine: Any = RapidOCR(params={"Global.log_level": "error", "Global.text_score": MIN_SCORE})
    return lambda picture: "".join(engine(picture).txts or ())


def _form(picture: bytes) -> bytes:
    name = "PP-OCRv6_small"
    options = {"minScore": MIN_SCORE}
    entries = {
        "ocr": {
            "detection": {"modelName": name, "options": {**options, "maxResolution": 736}},
            "recognition": {"modelName": name, "options": options},
        }
    }
    parts = [("entries", json.dumps(entries).encode()), ('image"; filename="blob', picture)]
    body = b"".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n'.encode() + value + b"\r\n"
        for key, value in parts
    )
    return body + f"--{BOUNDARY}--\r\n".encode()


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _print_row(kind: str, row: dict[str, list[float]]) -> None:
    count = len(next(iter(row.values())))
    cells = [f"{np.mean([value == 1 for value in values]):.1%} | {np.mean(values):.2%}" for values in row.values()]
    print(f"| {kind} | {count} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
