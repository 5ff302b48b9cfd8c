"""Turn an official Chinese-CLIP checkpoint into ONNX graphs in Immich's cache layout, where the server finds them.

    .venv-export/bin/python scripts/export_clip.py ViT-L-14

Needs torch and cn-clip: `scripts/export-env` makes `.venv-export`. The server itself needs neither. Nothing is put in
place before the server's own code, reading the new files, has answered what PyTorch answers.
"""

import argparse
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import clip_graphs
import numpy as np
import torch_clip
from numpy.typing import NDArray
from PIL import Image

from immich_ml_cn import sources
from immich_ml_cn.engines import CpuEngine
from immich_ml_cn.engines.graphs.files import Graph
from immich_ml_cn.engines.session import Session
from immich_ml_cn.errors import ServiceError
from immich_ml_cn.models.clip import Embedding, TextualEncoder, VisualEncoder, load_textual, load_visual
from immich_ml_cn.models.clip.transform import OPENAI_MEAN, OPENAI_STD
from immich_ml_cn.models.clip.wordpiece import BUNDLED_VOCABULARY
from immich_ml_cn.models.images import Picture, decode
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.clip_names import DEFAULT_ALIASES, DIRECT_NAMES
from immich_ml_cn.sources.tasks import ModelTask
from immich_ml_cn.store import fetch
from immich_ml_cn.store.downloader import fetch_options
from immich_ml_cn.store.removal import unknown_files

LEAST_COSINE: Final[Mapping[str, float]] = {"fp32": 0.99999, "fp16": 0.999}
"""Precision → the least cosine to PyTorch in fp32 with which an export is put in place; int8 is only measured."""

QUERIES: Final = (
    "",
    "猫",
    "一只在沙发上睡觉的橘猫",
    "海边的日落",
    "a red car parked in front of a house",
    "2019年夏天在北京 故宫 拍的全家福,天气很好,孩子们在前面跑",
    "妈妈的生日蛋糕 🎂",
    "身份证和护照的照片。" * 12,
)
_PICTURES_AT_MOST: Final = 64


class ExportRefused(RuntimeError):
    """The export was not put in place; the message says why."""


@dataclass(frozen=True)
class Checked:
    """How far the server's answers are from PyTorch's.

    Attributes:
        cosine: the least over all inputs, alone and in batches.
        length: the largest relative difference in length of the features.
        items: number of inputs.
    """

    cosine: float
    length: float
    items: int

    def __str__(self) -> str:
        return f"cosine ≥ {self.cosine:.7f}, length of the features within {self.length:.1e}, {self.items} inputs"


@dataclass(frozen=True)
class Reference:
    """The inputs of a comparison and what PyTorch in fp32 answers: float32 (N, D), not normalised."""

    pictures: Sequence[Picture]
    texts: Sequence[str]
    image_features: NDArray[np.float32]
    text_features: NDArray[np.float32]

    @classmethod
    def of(cls, clip: Any, pictures: Sequence[Picture], texts: Sequence[str]) -> "Reference":
        """Ask cn-clip, one input at a time."""
        return cls(
            pictures,
            texts,
            np.stack([torch_clip.image_features(clip, picture.image) for picture in pictures]),
            np.stack([torch_clip.text_features(clip, text) for text in texts]),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    options = _parse(arguments)
    # ERROR: onnxruntime's quantiser talks through the root logger.
    logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stderr)
    logging.getLogger("immich_ml_cn").setLevel(logging.INFO)
    settings = Settings.from_env()
    model = model_name(options.model)
    cache: Path = (options.cache or settings.cache_folder).absolute()
    try:
        architecture = torch_clip.Architecture.official(_ARCHITECTURES[model])
        pictures = [*sample_pictures(architecture.pixels), *_read_pictures(options.images)]
        checkpoint = options.checkpoint or fetch_checkpoint(model, cache, settings)
        folder = export(
            model,
            architecture,
            checkpoint,
            cache,
            precisions=["fp32", *(name for name in ("fp16", "int8") if getattr(options, name))],
            pictures=pictures,
            replace=options.replace,
        )
    except (ExportRefused, torch_clip.CheckpointError, ServiceError, OSError) as error:
        print(f"not exported: {error}", file=sys.stderr)
        return 1
    if options.int8 and options.images is None:
        print("int8 was measured on made-up pictures only: give real ones with --images before you rely on it")
    names = [name for name, served in DEFAULT_ALIASES.items() if served == model]
    print(f"{folder} is ready: the server answers with it to {', '.join(names)} and {model}")
    return 0


def model_name(name: str) -> str:
    """Our name of a Chinese-CLIP from ours, cn-clip's or Immich's.

    Raises:
        argparse.ArgumentTypeError: none of them.
    """
    model = DIRECT_NAMES.get(name, DEFAULT_ALIASES.get(name, name))
    if model not in _ARCHITECTURES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(DIRECT_NAMES)}")
    return model


def fetch_checkpoint(model: str, cache: Path, settings: Settings) -> Path:
    """The official checkpoint: from ``CLIP_DOWNLOAD_ROOT``, ``<cache>/checkpoints`` or, once, where it is published.

    Raises:
        Unavailable: it is not there and cannot be had.
    """
    offered = sources.checkpoint_sources(model)
    folder = cache / "checkpoints" / model
    if settings.clip_download_root is not None:
        downloaded = settings.clip_download_root / offered[0].required[0].name
        if downloaded.is_file():
            print(f"checkpoint: {downloaded}")
            return downloaded
    progress = fetch.display_progress(sys.stderr, logging.getLogger("immich_ml_cn"))
    fetch.fetch_model(offered, folder, fetch_options(settings), progress)
    path = folder / offered[0].required[0]
    print(f"checkpoint: {path} (not needed by the server)")
    return path


def export(
    model: str,
    architecture: torch_clip.Architecture,
    checkpoint: Path,
    cache: Path,
    *,
    precisions: Sequence[str] = ("fp32",),
    pictures: Sequence[Picture] = (),
    texts: Sequence[str] = QUERIES,
    vocabulary: Path = BUNDLED_VOCABULARY,
    replace: bool = False,
    limit: int = clip_graphs.PROTOBUF_LIMIT,
) -> Path:
    """Export a checkpoint, compare, and put it in place.

    Args:
        model: the folder's name, ``<cache>/clip/<model>``.
        checkpoint: a file in the official format.
        precisions: ``fp32``, always first, then any of ``fp16`` and ``int8``.
        pictures, texts: what is compared; by default made-up pictures.
        replace: put it in the place of what is there.
        limit: bytes of a graph above which its weights lie beside it.

    Returns:
        The model's folder.

    Raises:
        ExportRefused: something is there already, or an export answers otherwise than PyTorch.
        CheckpointError: the checkpoint is not of this architecture.
    """
    target = cache / "clip" / model
    if not replace and any(target.glob("*/*.onnx")):
        raise ExportRefused(f"there is a model in {target}; --replace puts the export in its place")
    if unknown := unknown_files(target, ModelTask.CLIP):
        raise ExportRefused(f"{unknown[0]} is no part of a model, and would be deleted with it; put it elsewhere first")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _step(f"reading {checkpoint}"):
        clip = torch_clip.load_model(architecture, torch_clip.read_checkpoint(checkpoint))
    with _step("what PyTorch answers"):
        reference = Reference.of(clip, pictures or sample_pictures(architecture.pixels), texts)
    # Beside the target, so that a rename puts it in place.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".export-{model}-") as temporary:
        staged = Path(temporary, model)
        write_configuration(staged, architecture, vocabulary)
        for precision in precisions:
            _export_precision(clip, staged, precision, limit)
            _check(staged, precision, reference)
        _put_in_place(staged, target, Path(temporary, "replaced"))
    return target


def write_configuration(folder: Path, architecture: torch_clip.Architecture, vocabulary: Path) -> None:
    """Write everything of Immich's layout but the graphs: the folder describes itself."""
    for kind in ("visual", "textual"):
        (folder / kind).mkdir(parents=True)
    config = {
        "embed_dim": architecture.dimension,
        "vision_cfg": {"image_size": architecture.pixels},
        "text_cfg": {
            "context_length": torch_clip.CONTEXT_LENGTH,
            "vocab_size": architecture.options["vocab_size"],
        },
    }
    transform = {
        "size": [architecture.pixels, architecture.pixels],
        "mode": "RGB",
        "mean": OPENAI_MEAN,
        "std": OPENAI_STD,
        "interpolation": "bicubic",
        "resize_mode": "squash",
        "resize_first": True,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "visual" / "preprocess_cfg.json").write_text(json.dumps(transform, indent=2) + "\n")
    shutil.copyfile(vocabulary, folder / "textual" / "vocab.txt")


def compare(folder: Path, graph: str, reference: Reference) -> tuple[Checked, Checked]:
    """How the server would answer with the files in `folder`: image tower, text tower.

    Every input is asked alone and in a batch of four.

    Args:
        graph: name of the graphs to open, e.g. ``model_fp16.onnx``.
    """
    engine = CpuEngine(Settings())

    def open_session(source: Graph) -> Session:
        return engine.open(source, "bulk", 0)

    visual = load_visual(folder, folder / "visual" / graph, open_session)
    pictures = [visual.prepare(picture) for picture in reference.pictures]
    image = _difference(_answers(visual, pictures), reference.image_features)
    del visual
    textual = load_textual(folder, folder / "textual" / graph, open_session)
    tokens = [textual.tokenize(text) for text in reference.texts]
    return image, _difference(_answers(textual, tokens), reference.text_features)


def sample_pictures(side: int) -> list[Picture]:
    """Five made-up pictures: a gradient, stripes, noise, blots and a near-black one, not all of them square."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[0:side, 0 : 2 * side] / side
    gradient = np.stack([x / 2, y, 1 - y], axis=-1)
    stripes = np.stack([np.sin(40 * x) > 0, np.sin(25 * (x + y)) > 0, np.cos(9 * y) > 0], axis=-1)
    noise = random.random((side, side, 3))
    blots = np.kron(random.random((8, 6, 3)), np.ones((side // 8 + 1, side // 8 + 1, 1)))
    dark = 0.03 * random.random((2 * side, side, 3))
    pictures = (Image.fromarray((255 * array).astype(np.uint8)) for array in (gradient, stripes, noise, blots, dark))
    return [Picture.of(image) for image in pictures]


def _export_precision(clip: Any, folder: Path, precision: str, limit: int) -> None:
    """Write both towers in one precision; fp16 rounds `clip` itself."""
    if precision == "fp16":
        clip_graphs.to_half(clip)
    exporters = {"visual": clip_graphs.export_image_tower, "textual": clip_graphs.export_text_tower}
    for kind, export_tower in exporters.items():
        target = folder / kind / graph_name(precision)
        with _step(f"{kind} tower, {precision}"):
            if precision == "int8":
                clip_graphs.quantise(folder / kind / graph_name("fp32"), target, limit=limit)
            else:
                export_tower(clip, target, limit=limit)
        print(f"  {target.name}: {clip_graphs.bytes_of(target) / 1e6:.1f} MB")


def graph_name(precision: str) -> str:
    """``model.onnx``, ``model_fp16.onnx`` or ``model_int8.onnx``."""
    return "model.onnx" if precision == "fp32" else f"model_{precision}.onnx"


def _check(folder: Path, precision: str, reference: Reference) -> None:
    with _step(f"comparing {precision} with PyTorch"):
        checks = compare(folder, graph_name(precision), reference)
    for kind, checked in zip(("visual", "textual"), checks, strict=True):
        print(f"  {kind}: {checked}")
        least = LEAST_COSINE.get(precision, -1.0)
        if not checked.cosine >= least:
            raise ExportRefused(
                f"the {kind} tower in {precision} answers otherwise than PyTorch: cosine {checked.cosine:.7f}, "
                f"at least {least} is needed; nothing was put in place"
            )


def _answers(encoder: VisualEncoder | TextualEncoder, items: Sequence[Any]) -> list[list[Embedding]]:
    """The embeddings of the items, asked alone and in batches."""
    return [list(itertools.chain.from_iterable(map(encoder.infer, _batches(items, size)))) for size in (1, 4)]


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _difference(answers: Sequence[Sequence[Embedding]], expected: NDArray[np.float32]) -> Checked:
    wanted = expected.astype(np.float64)
    lengths = np.linalg.norm(wanted, axis=1)
    cosine, length = 1.0, 0.0
    for answer in answers:
        vectors = np.stack([item.vector for item in answer]).astype(np.float64)
        features = np.stack([_present(item.features) for item in answer]).astype(np.float64)
        cosines = (vectors * wanted).sum(axis=1) / lengths / np.linalg.norm(vectors, axis=1)
        cosine = min(cosine, float(cosines.min()))
        length = max(length, float(abs(np.linalg.norm(features, axis=1) / lengths - 1).max()))
    return Checked(cosine, length, len(expected))


def _present(features: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if features is None:
        raise ExportRefused("the graph lacks the output 'features'")
    return features


def _put_in_place(staged: Path, target: Path, old: Path) -> None:
    """Rename the new folder to its name; what was there is deleted with the temporary folder it is moved to."""
    os.sync()
    if target.exists():
        target.rename(old)
    staged.rename(target)


def _read_pictures(folder: Path | None) -> list[Picture]:
    if folder is None:
        return []
    limit = Settings().max_image_pixels
    pictures: list[Picture] = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"} and len(pictures) < _PICTURES_AT_MOST:
            pictures.append(decode(path.read_bytes(), limit))
    if not pictures:
        raise ExportRefused(f"there are no pictures (jpg, png, webp) in {folder}")
    return pictures


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    begun = time.monotonic()
    print(f"{what} …", flush=True)
    yield
    print(f"  {time.monotonic() - begun:.1f} s", flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", metavar="MODEL", help=f"one of {', '.join(DIRECT_NAMES)}, or Immich's name for it")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="the official .pt; fetched when left out")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="default: MACHINE_LEARNING_CACHE_FOLDER")
    parser.add_argument("--fp16", action="store_true", help="also model_fp16.onnx, for GPUs")
    parser.add_argument("--int8", action="store_true", help="also model_int8.onnx, for CPUs")
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures of your own to compare with")
    parser.add_argument("--replace", action="store_true", help="put the export in the place of what is there")
    options = parser.parse_args(arguments)
    try:
        model_name(options.model)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    return options


_ARCHITECTURES: Final = {model: name for name, model in DIRECT_NAMES.items()}

if __name__ == "__main__":
    sys.exit(main())
