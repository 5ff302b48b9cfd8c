"""What settings about models and the cache probably do not mean, as far as it can be told before anybody asks."""

import tempfile
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

from immich_ml_cn import sources
from immich_ml_cn.messages import Message, tr
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.clip_names import DIRECT_NAMES, LISTED_DIMENSIONS, clean_name, known_name
from immich_ml_cn.sources.tasks import ModelTask


def unwritable(cache: Path) -> str:
    """Why nothing can be written into the cache folder, which is made if need be; "" where something can."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def doubtful_models(settings: Settings) -> Iterator[Message]:
    """A sentence for each setting that names a model which cannot be served, or which nobody will ask for."""
    for asked, model in settings.clip_aliases.items():
        yield from _doubtful_alias(settings, asked, model)
    clip = (*DIRECT_NAMES, *sources.model_names(ModelTask.CLIP), *settings.clip_aliases)
    yield from _unknown(settings, "CLIP_MODEL", settings.mt_photos_clip_model, ModelTask.CLIP, clip)
    faces = sources.model_names(ModelTask.FACES)
    yield from _unknown(settings, "RECOGNITION_MODEL", settings.mt_photos_face_model, ModelTask.FACES, faces)


def _doubtful_alias(settings: Settings, asked: str, model: str) -> Iterator[Message]:
    variable = "MACHINE_LEARNING_CLIP_ALIASES"
    if asked not in LISTED_DIMENSIONS:
        yield tr(
            "{variable}: Immich's list has no {name}{near}; its server asks for names of that list only",
            variable=variable,
            name=asked,
            near=_near(asked, LISTED_DIMENSIONS),
        )
    if model.startswith("/"):
        if not Path(model).is_dir():
            yield tr("{variable}: there is no folder {folder}", variable=variable, folder=model)
    elif sources.Repository.parse(model) is None:
        known = (*DIRECT_NAMES, *sources.model_names(ModelTask.CLIP))
        yield from _unknown(settings, variable, model, ModelTask.CLIP, known)


def _unknown(settings: Settings, variable: str, name: str, task: ModelTask, known: Iterable[str]) -> Iterator[Message]:
    names = tuple(known)
    cleaned = known_name(clean_name(name), names)
    if cleaned not in names and not (settings.cache_folder / task / cleaned).is_dir():
        yield tr(
            "{variable}: nobody offers a model {name}, and the cache has none{near}",
            variable=variable,
            name=name,
            near=_near(cleaned, names),
        )


def _near(name: str, known: Iterable[str]) -> str:
    """An addition to a sentence: the known name that is probably meant."""
    near = get_close_matches(name, known, n=1)
    return tr(" (is {name} meant?)", name=near[0]) if near else ""
