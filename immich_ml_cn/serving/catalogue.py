"""Model name → what it takes to load it: everything that can be served.

Known names come from `sources`; a model that lies in the cache in Immich's layout is served under its folder's name
even when nobody offers it for download. The model code itself is imported when a model is built, not before.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from immich_ml_cn import sources
from immich_ml_cn.engines import LoadError
from immich_ml_cn.engines.session import OpenSession
from immich_ml_cn.messages import tr
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.clip_names import CHINESE_CLIP_PIXELS, LISTED_DIMENSIONS
from immich_ml_cn.sources.tasks import Component, ModelTask
from immich_ml_cn.store.downloader import Downloader

from . import warm_ups
from .model_names import ModelNames
from .plan import FacePlan, OcrPlan, Plan, TextReader, TextualPlan, VisualPlan
from .spec import AnyModel, ModelSpec, ModelT
from .tasks import FaceTask, OcrTask, Tasks

if TYPE_CHECKING:
    from immich_ml_cn.models.clip import TextualEncoder, VisualEncoder
    from immich_ml_cn.models.faces import FaceDetector, FaceRecognizer
    from immich_ml_cn.models.ocr import TextDetector, TextOrientation, TextRecognizer

BUNDLED_OCR: Final = "PP-OCRv6_small"
"""The OCR model whose two files the rapidocr package carries."""

FACE_DIMENSION: Final = 512
"""Of every ArcFace embedding: Immich's column has room for no other."""

MAX_PARALLEL_LINES: Final = 32
"""Lines of text, over all requests, that a CPU is given together and runs in parallel, one core each."""


class Catalogue:
    """Finds models by the names that requests use.

    Every method that takes a name raises `UnknownModel` where it cannot be served; the message lists those that can.
    """

    def __init__(self, settings: Settings, downloader: Downloader, *, on_gpu: bool) -> None:
        """
        Args:
            downloader: downloads missing files.
            on_gpu: decides the default batch sizes and the precision of CLIP.
        """
        self._settings = settings
        self._names = ModelNames(settings)
        self._downloader = downloader
        self._on_gpu = on_gpu
        self._devices: Mapping[ModelTask, int] = settings.task_devices if on_gpu else {}
        self._max_batch_clip = settings.max_batch_clip or (16 if on_gpu else 4)
        self._max_batch_faces = settings.max_batch_faces or 16
        self._max_batch_detection = 4 if on_gpu else 1
        self._max_batch_ocr = settings.max_batch_ocr if on_gpu else MAX_PARALLEL_LINES

    def plan(self, tasks: Tasks) -> Plan:
        """The models of a request.

        Raises:
            UnknownModel: a name that cannot be served.
        """
        return Plan(
            visual=VisualPlan(tasks.visual, self.visual(tasks.visual.model)) if tasks.visual else None,
            textual=TextualPlan(tasks.textual, self.textual(tasks.textual.model)) if tasks.textual else None,
            faces=self._face_plan(tasks.faces) if tasks.faces else None,
            ocr=self._ocr_plan(tasks.ocr) if tasks.ocr else None,
        )

    def _face_plan(self, task: FaceTask) -> FacePlan:
        detector = self.face_detector(task.detection)
        return FacePlan(task, detector, None if task.recognition is None else self.face_recognizer(task.recognition))

    def _ocr_plan(self, task: OcrTask) -> OcrPlan:
        detector = self.text_detector(task.detection)
        if task.recognition is None:
            return OcrPlan(task, detector)
        return OcrPlan(task, detector, TextReader(self.text_orientation(), self.text_recognizer(task.recognition)))

    def spec(self, task: ModelTask, component: Component, name: str) -> ModelSpec[AnyModel]:
        """Any component of any model."""
        finders: Mapping[tuple[ModelTask, Component], Callable[[str], ModelSpec[AnyModel]]] = {
            (ModelTask.CLIP, Component.VISUAL): self.visual,
            (ModelTask.CLIP, Component.TEXTUAL): self.textual,
            (ModelTask.FACES, Component.DETECTION): self.face_detector,
            (ModelTask.FACES, Component.RECOGNITION): self.face_recognizer,
            (ModelTask.OCR, Component.DETECTION): self.text_detector,
            (ModelTask.OCR, Component.RECOGNITION): self.text_recognizer,
        }
        return finders[task, component](name)

    # --- CLIP ---

    def visual(self, name: str) -> "ModelSpec[VisualEncoder]":
        """The image tower of a CLIP model."""
        asked, model = self._names.clip(name)
        folder = self._folder(ModelTask.CLIP, model, Component.VISUAL)
        pixels = CHINESE_CLIP_PIXELS.get(model)
        fast = self._settings.clip_preprocessing == "fast"

        def build(open_session: OpenSession) -> "VisualEncoder":
            from immich_ml_cn.models import clip

            transform = clip.chinese_clip_transform(pixels) if pixels else None
            return clip.load_visual(folder, self._tower(folder, Component.VISUAL), open_session, transform, fast=fast)

        spec = self._spec(ModelTask.CLIP, model, Component.VISUAL, build, self._max_batch_clip)
        warm_up = warm_ups.encode_picture
        return replace(spec, dimension=LISTED_DIMENSIONS.get(asked), parallel=True, warm_up=warm_up)

    def textual(self, name: str) -> "ModelSpec[TextualEncoder]":
        """The text tower of a CLIP model."""
        asked, model = self._names.clip(name)
        folder = self._folder(ModelTask.CLIP, model, Component.TEXTUAL)

        def build(open_session: OpenSession) -> "TextualEncoder":
            from immich_ml_cn.models import clip

            tokenizer = clip.WordPieceTokenizer.from_file() if model in CHINESE_CLIP_PIXELS else None
            return clip.load_textual(folder, self._tower(folder, Component.TEXTUAL), open_session, tokenizer)

        spec = self._spec(ModelTask.CLIP, model, Component.TEXTUAL, build, self._max_batch_clip)
        warm_up = warm_ups.encode_text
        return replace(spec, lane="interactive", dimension=LISTED_DIMENSIONS.get(asked), warm_up=warm_up)

    def _tower(self, folder: Path, component: Component) -> Path:
        """The graph of a tower, of the precision that the settings ask for."""
        from immich_ml_cn.models import clip

        return clip.choose_graph(folder / component, self._settings.clip_precision, on_gpu=self._on_gpu)

    # --- faces ---

    def face_detector(self, name: str) -> "ModelSpec[FaceDetector]":
        """SCRFD or RetinaFace of an InsightFace pack."""
        model = self._names.known(ModelTask.FACES, name)
        path = self._path(ModelTask.FACES, model, Component.DETECTION)

        def build(open_session: OpenSession) -> "FaceDetector":
            from immich_ml_cn.models.faces import load_detector

            return load_detector(path, open_session)

        spec = self._spec(ModelTask.FACES, model, Component.DETECTION, build, self._max_batch_detection)
        return replace(spec, warm_up=warm_ups.detect_faces)

    def face_recognizer(self, name: str) -> "ModelSpec[FaceRecognizer]":
        """ArcFace of an InsightFace pack."""
        model = self._names.known(ModelTask.FACES, name)
        path = self._path(ModelTask.FACES, model, Component.RECOGNITION)

        def build(open_session: OpenSession) -> "FaceRecognizer":
            from immich_ml_cn.models.faces import load_recognizer

            return load_recognizer(path, open_session)

        spec = self._spec(ModelTask.FACES, model, Component.RECOGNITION, build, self._max_batch_faces)
        return replace(spec, dimension=FACE_DIMENSION)

    # --- OCR ---

    def text_detector(self, name: str) -> "ModelSpec[TextDetector]":
        """PP-OCR's line detector."""
        side = self._settings.preload_ocr_max_resolution

        def build(path: Path, open_session: OpenSession) -> "TextDetector":
            from immich_ml_cn.models.ocr import load_detector

            return load_detector(path, open_session)

        spec = self._ocr(name, Component.DETECTION, build, self._max_batch_detection)
        return replace(spec, warm_up=warm_ups.detect_text(side))

    def text_recognizer(self, name: str) -> "ModelSpec[TextRecognizer]":
        """PP-OCR's line recogniser."""

        def build(path: Path, open_session: OpenSession) -> "TextRecognizer":
            from immich_ml_cn.models.ocr import load_recognizer

            return load_recognizer(path, open_session)

        spec = self._ocr(name, Component.RECOGNITION, build, self._max_batch_ocr, parallel=True)
        return replace(spec, warm_up=warm_ups.read_lines)

    def text_orientation(self) -> "ModelSpec[TextOrientation]":
        """PP-OCR's classifier of upside-down lines, which the rapidocr package carries."""
        path = sources.bundled_orientation()

        def build(open_session: OpenSession) -> "TextOrientation":
            from immich_ml_cn.models.ocr import load_classifier

            if path is None:
                raise LoadError(tr("the package rapidocr, which carries PP-OCR's line classifier, is not installed"))
            return load_classifier(path, open_session)

        return ModelSpec(
            key="ocr/orientation",
            lane="bulk",
            max_batch=self._max_batch_ocr,
            build=build,
            device=self._devices.get(ModelTask.OCR),
            parallel=True,
            warm_up=warm_ups.turn_lines,
        )

    def _ocr(
        self,
        name: str,
        component: Component,
        build: Callable[[Path, OpenSession], ModelT],
        max_batch: int,
        *,
        parallel: bool = False,
    ) -> ModelSpec[ModelT]:
        model = self._names.known(ModelTask.OCR, name)
        path = self._path(ModelTask.OCR, model, component)
        spec = self._spec(ModelTask.OCR, model, component, partial(build, path), max_batch)
        spec = replace(spec, parallel=parallel)
        bundled = sources.bundled(ModelTask.OCR, BUNDLED_OCR, component)
        if bundled is None or path.is_file():
            return spec
        key = f"ocr/{BUNDLED_OCR}/{component} (bundled)"
        stand_in = ModelSpec(key, spec.lane, max_batch, partial(build, bundled), device=spec.device, parallel=parallel)
        if model == BUNDLED_OCR:
            return stand_in
        return replace(spec, fallback=stand_in) if _is_same_script(model, component) else spec

    # --- names and files ---

    def _spec(
        self,
        task: ModelTask,
        model: str,
        component: Component,
        build: Callable[[OpenSession], ModelT],
        max_batch: int,
    ) -> ModelSpec[ModelT]:
        """A spec of a model that the cache holds or the downloader fetches."""
        folder = sources.folder_for(task, model, component, revision=self._settings.model_revision)
        return ModelSpec(
            key=f"{folder}/{component}",
            lane="bulk",
            max_batch=max_batch,
            build=build,
            fetch=partial(self._downloader.ensure, task, model, component),
            is_here=partial(self._downloader.is_here, task, model, component),
            progress=partial(self._downloader.progress, task, model),
            quarantine=partial(self._downloader.quarantine, task, model, component),
            device=self._devices.get(task),
        )

    def _folder(self, task: ModelTask, model: str, component: Component) -> Path:
        relative = sources.folder_for(task, model, component, revision=self._settings.model_revision)
        return self._settings.cache_folder / relative

    def _path(self, task: ModelTask, model: str, component: Component) -> Path:
        return self._folder(task, model, component) / component / "model.onnx"


def _is_same_script(model: str, component: Component) -> bool:
    """Whether the bundled OCR model finds or reads the same writing: another script's would come out as wrong text.

    A detector knows no alphabet, and is one for all languages.
    """
    language, _, _ = model.rpartition("__")
    known = model in sources.model_names(ModelTask.OCR)
    return known and (component is Component.DETECTION or language in ("", "CH"))
