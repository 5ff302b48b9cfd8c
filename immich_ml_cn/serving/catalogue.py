"""Model name → what it takes to load it: everything that can be served.

Known names come from `sources`; a model that lies in the cache in Immich's layout is served under its folder's name
even when nobody offers it for download. The model code itself is imported when a model is built, not before.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from immich_ml_cn import sources
from immich_ml_cn.engines import LoadError
from immich_ml_cn.engines.session import Model, OpenSession
from immich_ml_cn.errors import UnknownModel
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.clip_names import CHINESE_CLIP_PIXELS, DIRECT_NAMES, LISTED_DIMENSIONS, clean_name
from immich_ml_cn.store.downloader import Downloader

from .registry import ModelSpec
from .tasks import FaceTask, OcrTask, Tasks

Build = Callable[[OpenSession], Model[Any, Any]]
BuildFrom = Callable[[Path, OpenSession], Model[Any, Any]]

FACES: Final = "facial-recognition"
FACE_DIMENSION: Final = 512
"""Of every ArcFace embedding: Immich's column has room for no other."""

MAX_PARALLEL_LINES: Final = 32
"""Lines of text, over all requests, that a CPU is given together and runs in parallel, one core each."""

MAX_NAME_BYTES: Final = 128
"""A folder's name may have 255; more than this no model has."""


@dataclass(frozen=True)
class Plan:
    """The models one request needs."""

    visual: ModelSpec | None = None
    textual: ModelSpec | None = None
    face_detector: ModelSpec | None = None
    face_recognizer: ModelSpec | None = None
    text_detector: ModelSpec | None = None
    text_orientation: ModelSpec | None = None
    text_recognizer: ModelSpec | None = None


class Catalogue:
    """Finds models by the names that requests use."""

    def __init__(self, settings: Settings, downloader: Downloader, *, on_gpu: bool) -> None:
        """
        Args:
            downloader: brings missing files.
            on_gpu: decides the default batch sizes and the precision of CLIP.
        """
        self._settings = settings
        self._downloader = downloader
        self._on_gpu = on_gpu
        self._devices: Mapping[str, int] = settings.task_devices if on_gpu else {}
        self._max_batch_clip = settings.max_batch_clip or (16 if on_gpu else 4)
        self._max_batch_faces = settings.max_batch_faces or 16
        self._max_batch_detection = 4 if on_gpu else 1
        self._max_batch_ocr = settings.max_batch_ocr if on_gpu else MAX_PARALLEL_LINES

    def plan(self, tasks: Tasks) -> Plan:
        """The models of a request.

        Raises:
            UnknownModel: a name that cannot be served; the message lists those that can.
        """
        return Plan(
            visual=self.visual(tasks.visual.model) if tasks.visual else None,
            textual=self.textual(tasks.textual.model) if tasks.textual else None,
            **self._face_plan(tasks.faces),
            **self._text_plan(tasks.ocr),
        )

    def _face_plan(self, task: FaceTask | None) -> dict[str, ModelSpec]:
        if task is None:
            return {}
        plan = {"face_detector": self.face_detector(task.detection)}
        return plan if task.recognition is None else {**plan, "face_recognizer": self.face_recognizer(task.recognition)}

    def _text_plan(self, task: OcrTask | None) -> dict[str, ModelSpec]:
        if task is None:
            return {}
        plan = {"text_detector": self.text_detector(task.detection)}
        if task.recognition is None:
            return plan
        return {
            **plan,
            "text_orientation": self.text_orientation(),
            "text_recognizer": self.text_recognizer(task.recognition),
        }

    def visual(self, name: str) -> ModelSpec:
        """The image tower of a CLIP model."""
        return self._clip(name, "visual")

    def textual(self, name: str) -> ModelSpec:
        """The text tower of a CLIP model."""
        return self._clip(name, "textual")

    def face_detector(self, name: str) -> ModelSpec:
        """SCRFD or RetinaFace of an InsightFace pack."""

        def build(path: Path, open_session: OpenSession) -> Model[Any, Any]:
            from immich_ml_cn.models.faces import load_detector

            return load_detector(path, open_session)

        return self._spec(FACES, self._known(FACES, name), "detection", build, self._max_batch_detection)

    def face_recognizer(self, name: str) -> ModelSpec:
        """ArcFace of an InsightFace pack."""

        def build(path: Path, open_session: OpenSession) -> Model[Any, Any]:
            from immich_ml_cn.models.faces import load_recognizer

            return load_recognizer(path, open_session)

        spec = self._spec(FACES, self._known(FACES, name), "recognition", build, self._max_batch_faces)
        return replace(spec, dimension=FACE_DIMENSION)

    def text_detector(self, name: str) -> ModelSpec:
        """PP-OCR's line detector."""

        def build(path: Path, open_session: OpenSession) -> Model[Any, Any]:
            from immich_ml_cn.models.ocr import load_detector

            return load_detector(path, open_session)

        return self._ocr(name, "detection", build, self._max_batch_detection)

    def text_recognizer(self, name: str) -> ModelSpec:
        """PP-OCR's line recogniser."""

        def build(path: Path, open_session: OpenSession) -> Model[Any, Any]:
            from immich_ml_cn.models.ocr import load_recognizer

            return load_recognizer(path, open_session)

        return self._ocr(name, "recognition", build, self._max_batch_ocr, parallel=True)

    def text_orientation(self) -> ModelSpec:
        """PP-OCR's classifier of upside-down lines, which the rapidocr package carries."""
        path = sources.bundled_orientation()

        def build(open_session: OpenSession) -> Model[Any, Any]:
            from immich_ml_cn.models.ocr import load_classifier

            if path is None:
                raise LoadError("the package rapidocr, which carries PP-OCR's line classifier, is not installed")
            return load_classifier(path, open_session)

        return ModelSpec(
            key="ocr/orientation",
            lane="bulk",
            max_batch=self._max_batch_ocr,
            build=build,
            device=self._devices.get("ocr"),
            parallel=True,
        )

    def _ocr(self, name: str, component: str, build: BuildFrom, batch: int, *, parallel: bool = False) -> ModelSpec:
        known = self._known("ocr", name)
        bundled = sources.bundled("ocr", "PP-OCRv6_small", component)
        spec = replace(self._spec("ocr", known, component, build, batch), parallel=parallel)
        if bundled is None or self._path("ocr", known, component).is_file():
            return spec
        carried = ModelSpec(
            key=f"ocr/PP-OCRv6_small/{component} (bundled)",
            lane="bulk",
            max_batch=batch,
            build=lambda open_session: build(bundled, open_session),
            device=self._devices.get("ocr"),
            parallel=parallel,
        )
        if known == "PP-OCRv6_small":
            return carried
        return replace(spec, fallback=carried) if self._reads_the_same(known, component) else spec

    def _reads_the_same(self, model: str, component: str) -> bool:
        """Whether the bundled model finds or reads the same writing: another script's would come out as wrong text.

        A detector knows no alphabet, and is one for all languages.
        """
        language, _, _ = model.rpartition("__")
        return model in self._names("ocr") and (component == "detection" or language in ("", "CH"))

    def _spec(self, task: str, model: str, component: str, build: BuildFrom, max_batch: int) -> ModelSpec:
        path = self._path(task, model, component)
        return ModelSpec(
            key=f"{sources.folder_for(task, model, component, revision=self._settings.model_revision)}/{component}",
            lane="bulk",
            max_batch=max_batch,
            build=lambda open_session: build(path, open_session),
            fetch=lambda: self._downloader.ensure(task, model, component),
            progress=lambda: self._downloader.progress(task, model),
            quarantine=lambda damage: self._downloader.quarantine(task, model, component, damage),
            device=self._devices.get(task),
        )

    def _clip(self, name: str, component: str) -> ModelSpec:
        asked = self._known("clip", name)
        model = self._settings.clip_aliases.get(asked, asked)
        model = DIRECT_NAMES.get(model, model)
        folder = self._folder("clip", model, component)
        return ModelSpec(
            key=f"{sources.folder_for('clip', model, component, revision=self._settings.model_revision)}/{component}",
            lane="interactive" if component == "textual" else "bulk",
            max_batch=self._max_batch_clip,
            build=self._clip_builder(model, folder, component),
            fetch=lambda: self._downloader.ensure("clip", model, component),
            progress=lambda: self._downloader.progress("clip", model),
            quarantine=lambda damage: self._downloader.quarantine("clip", model, component, damage),
            device=self._devices.get("clip"),
            dimension=LISTED_DIMENSIONS.get(asked),
            parallel=component == "visual",
        )

    def _known(self, task: str, name: str) -> str:
        """The cleaned name, if it can be served."""
        cleaned = clean_name(name)
        if re.fullmatch(r"[\w+-]+", cleaned) and len(cleaned.encode()) <= MAX_NAME_BYTES:
            if cleaned in self._names(task) or self._in_cache(task, cleaned):
                return cleaned
            if task == "clip" and (cleaned in DIRECT_NAMES or cleaned in self._settings.clip_aliases):
                return cleaned
        shown = name if len(name) <= 60 else name[:60] + "…"
        raise UnknownModel(f"Unknown {task} model {shown!r}. Known are: {', '.join(self._names(task))}")

    def _names(self, task: str) -> tuple[str, ...]:
        return sources.model_names(task)

    def _in_cache(self, task: str, model: str) -> bool:
        return (self._settings.cache_folder / task / model).is_dir()

    def _folder(self, task: str, model: str, component: str) -> Path:
        relative = sources.folder_for(task, model, component, revision=self._settings.model_revision)
        return self._settings.cache_folder / relative

    def _path(self, task: str, model: str, component: str) -> Path:
        return self._folder(task, model, component) / component / "model.onnx"

    def _clip_builder(self, model: str, folder: Path, component: str) -> Build:
        def build(open_session: OpenSession) -> Model[Any, Any]:
            from immich_ml_cn.models import clip

            path = clip.choose_graph(folder / component, self._settings.clip_precision, on_gpu=self._on_gpu)
            pixels = CHINESE_CLIP_PIXELS.get(model)
            encoder: clip.VisualEncoder | clip.TextualEncoder
            if component == "visual":
                transform = clip.chinese_clip_transform(pixels) if pixels else None
                fast = self._settings.clip_preprocessing == "fast"
                encoder = clip.load_visual(folder, path, open_session, transform, fast=fast)
            else:
                tokenizer = clip.WordPieceTokenizer.from_file() if pixels else None
                encoder = clip.load_textual(folder, path, open_session, tokenizer)
            return encoder

        return build
