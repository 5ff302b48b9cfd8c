"""The models that the settings want loaded before the port opens."""

import logging

from immich_ml_cn.errors import UnknownModel
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.tasks import Component, ModelTask

from .catalogue import Catalogue
from .spec import AnyModel, ModelSpec

logger = logging.getLogger(__name__)


def preloaded(settings: Settings, catalogue: Catalogue) -> list[ModelSpec[AnyModel]]:
    """Their specs, each once; names that nobody knows are logged and left out."""
    clip, faces = settings.preload_clip, settings.preload_faces
    wanted = [
        (ModelTask.CLIP, Component.TEXTUAL, settings.preload_clip_textual + clip),
        (ModelTask.CLIP, Component.VISUAL, settings.preload_clip_visual + clip),
        (ModelTask.FACES, Component.DETECTION, settings.preload_face_detection + faces),
        (ModelTask.FACES, Component.RECOGNITION, settings.preload_face_recognition + faces),
        (ModelTask.OCR, Component.DETECTION, settings.preload_ocr_detection),
        (ModelTask.OCR, Component.RECOGNITION, settings.preload_ocr_recognition),
    ]
    specs: dict[str, ModelSpec[AnyModel]] = {}
    for task, component, names in wanted:
        for name in names:
            try:
                spec = catalogue.spec(task, component, name)
            except UnknownModel as error:
                logger.error("cannot preload: %s", error)
                continue
            specs[spec.key] = spec
    return list(specs.values())
