"""Small Chinese-CLIPs: one like each of the five, with a vocabulary of their own, and their conversion."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from immich_ml_cn.engines.graphs.files import Graph
from immich_ml_cn.engines.session import Session
from immich_ml_cn.store.conversion.architecture import Architecture, Bert, ResNet, VisionTransformer
from immich_ml_cn.store.conversion.convert import Request, convert
from immich_ml_cn.store.conversion.graph import PRECISIONS, Precision

GOLDEN = Path(__file__).parent / "golden" / "clip_parity"
"""Written by tests/golden/make_clip_parity.py: ``<name>.pt`` for each, and what PyTorch answers."""

QUERIES = (
    "",
    "猫",
    "一只橘猫",
    "海边的日落,天气很好",
    "a red car",
    "Café 2019 年 北京",
    "孩子们在前面跑🎂",
    "身份证和护照的照片。" * 10,
)
_WORDS = ["a", "red", "car", "cafe", "2019", "##9", "##e", ",", "。"]
_CHARACTERS = sorted({char for query in QUERIES for char in query if "\u4e00" <= char <= "\u9fff"})
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS, *_CHARACTERS]
"""What `QUERIES` need, but for the birthday cake."""

_TEXT = Bert(width=24, layers=2, heads=2, intermediate=48, words=len(VOCABULARY), positions=52)
_WIDE_TEXT = replace(_TEXT, width=32, layers=3, heads=4, intermediate=64)

SMALL: Mapping[str, Architecture] = {
    "chinese-clip-rn50": Architecture(ResNet(64, 4, (1, 2, 1, 1), heads=8), replace(_TEXT, layers=1), 24),
    "chinese-clip-vit-base-patch16": Architecture(VisionTransformer(32, 8, 32, 2, heads=2), _TEXT, 24),
    "chinese-clip-vit-large-patch14": Architecture(VisionTransformer(28, 7, 32, 3, heads=2), _TEXT, 32),
    "chinese-clip-vit-large-patch14-336px": Architecture(VisionTransformer(42, 7, 32, 3, heads=2), _TEXT, 32),
    "chinese-clip-vit-huge-patch14": Architecture(VisionTransformer(28, 7, 40, 3, heads=2), _WIDE_TEXT, 40),
}
"""Name → the shape of a model that is like it and tiny."""


def write_vocabulary(path: Path) -> Path:
    """Write `VOCABULARY` as BERT's ``vocab.txt``."""
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return path


class Silent:
    """Nobody looks at the progress."""

    def start(self, file: str, tensors: int, total: int) -> None: ...

    def advance(self, count: int) -> None: ...


def open_session(graph: Graph) -> Session:
    """Open a graph to check it."""
    from ort_session import OrtSession  # where the golden files are made there may be no engine

    return OrtSession(graph)


def run(graph: Path, feeds: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
    """Run a graph once."""
    return open_session(graph).run(feeds)


def request_for(
    checkpoint: Path,
    folder: Path,
    architecture: Architecture,
    precisions: tuple[Precision, ...] = ("fp32",),
    **options: Any,
) -> Request:
    """A conversion into a model's folder, with the small vocabulary beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_vocabulary(folder.parent / f"{folder.name}-vocab.txt")
    return Request(checkpoint, folder, architecture, precisions, vocabulary, **options)


def convert_small(name: str, folder: Path, precisions: tuple[Precision, ...] = PRECISIONS) -> Path:
    """Convert the golden checkpoint of a small model into a folder; the folder."""
    convert(request_for(GOLDEN / f"{name}.pt", folder, SMALL[name], precisions), Silent(), open_session)
    return folder


def copy_small(name: str, folder: Path) -> Path:
    """The golden checkpoint of a small model, copied to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(GOLDEN / f"{name}.pt", folder))


def every_file(folder: Path) -> set[str]:
    """The files below a folder, by their paths in it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
