"""What `scripts/fuzz` runs: a target that is fed bytes, guided by the lines they reach, from the tests' corpus on."""

import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

import atheris  # noqa: E402

with atheris.instrument_imports(include=["immich_ml_cn", "python_multipart", "PIL"]):
    from immich_ml_cn.api import immich, mt_photos
    from immich_ml_cn.errors import ServiceError
    from immich_ml_cn.models import images
    from immich_ml_cn.models.clip import WordPieceTokenizer
    from immich_ml_cn.settings import Settings, SettingsError, variables
    from immich_ml_cn.web.forms import FormLimits, read_form

import corpus  # noqa: E402
from server import BOUNDARY, FACE_TASK, OCR_TASK, TEXTUAL, VISUAL  # noqa: E402

TOKENIZER = WordPieceTokenizer.from_file()
MAX_PIXELS = 1 << 18
LIMITS = FormLimits(body_bytes=1 << 20, fields=20, text_bytes=1 << 14)
KINDS = (
    f"multipart/form-data; boundary={BOUNDARY}",
    "application/x-www-form-urlencoded",
    'multipart/form-data; boundary="x"',
    "text/plain",
)


def read_protocol(data: bytes) -> None:
    """`entries`, and MT Photos' JSON."""
    text = data.decode("utf-8", "replace")
    for read in (lambda: immich.read_tasks(immich.parse_entries(text)), lambda: mt_photos.read_text(data)):
        try:
            read()
        except ServiceError as error:
            _check(error)


def _check(error: ServiceError) -> None:
    """Only failures that are the client's."""
    assert error.status in (400, 413, 422), error


async def _pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def read_forms(data: bytes) -> None:
    """A body in pieces: the first byte chooses its type, the second their size."""
    if len(data) < 3:
        return
    kind, size, body = KINDS[data[0] % len(KINDS)], data[1] + 1, data[2:]
    try:
        form = asyncio.run(read_form(kind, _pieces(body, size), LIMITS))
        form.text("entries")
        form.file("image")
    except ServiceError as error:
        _check(error)


def read_images(data: bytes) -> None:
    """A file."""
    for read in (images.measure, images.decode):
        try:
            found = read(data, MAX_PIXELS)
        except ServiceError as error:
            _check(error)
        else:
            if isinstance(found, images.Picture):
                assert found.rgb.shape == (found.height, found.width, 3)
                assert found.width * found.height <= MAX_PIXELS
                images.upright(found)


def read_queries(data: bytes) -> None:
    """A query of Immich's, normalised for Chinese-CLIP's tokenizer."""
    text = data.decode("utf-8", "replace")
    normal = TOKENIZER.normalize(text)
    assert 2 <= len(TOKENIZER.encode(normal)) <= TOKENIZER.context_length
    assert TOKENIZER.normalize(normal).split() == normal.split()


def read_settings(data: bytes) -> None:
    """An environment: lines of ``NAME=value``, of which most should be names that are known."""
    lines = [line.partition("=") for line in data.decode("utf-8", "replace").split("\n")]
    with suppress(SettingsError):
        Settings.from_env({name: value for name, _, value in lines})


def seeds(target: str) -> Iterable[bytes]:
    """Where the search begins."""
    if target == "protocol":
        good = (VISUAL, TEXTUAL, FACE_TASK, OCR_TASK, {**VISUAL, **FACE_TASK, **OCR_TASK}, {"text": "飞机"})
        strange = [text.encode() for _, text in corpus.strange_entries() if len(text) < 4096]
        return [json.dumps(entries).encode() for entries in good] + strange
    if target == "forms":
        return (
            bytes([KINDS.index(kind) if kind in KINDS else 0, 63]) + body for _, body, kind in corpus.strange_forms()
        )
    if target == "queries":
        return [text.encode() for text in corpus.STRANGE_TEXTS]
    if target == "settings":
        return [f"{variable.name}=1".encode() for variable in variables().values()]
    small = [data for _, data in corpus.costly_pictures(0.005)]
    return small + [data for source in (corpus.valid_pictures, corpus.broken_pictures) for _, data in source()]


TARGETS: dict[str, Callable[[bytes], Any]] = {
    "protocol": read_protocol,
    "forms": read_forms,
    "images": read_images,
    "queries": read_queries,
    "settings": read_settings,
}


def main() -> None:
    """Fuzz a target for a number of seconds."""
    target, seconds = sys.argv[1], sys.argv[2]
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds(target)):
            Path(folder, f"{number:05}").write_bytes(seed)
        limits = [
            f"-max_total_time={seconds}",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-max_len=16384",
            "-print_final_stats=1",
            "-artifact_prefix=build/fuzz-",
        ]
        atheris.Setup([sys.argv[0], *limits, folder], TARGETS[target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
