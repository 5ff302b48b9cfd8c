"""Where every model we can serve comes from: the one table of real addresses.

Pure data. `sources_for` answers in the order in which the sources are tried; all sources of one model bring the same
files to the same places, Immich's cache layout: ``<cache>/<task>/<model>[/<revision>]/<component>/model.onnx``.
"""

from pathlib import PurePosixPath

from immich_ml_cn.errors import UnknownModel
from immich_ml_cn.messages import tr

from .clip import (
    CHINESE_CLIP,
    MCLIP,
    OPENCLIP,
    checkpoint_names,
    checkpoint_sources,
    chinese_clip,
    immich_clip,
    joint_source,
)
from .faces import INSIGHTFACE, insightface
from .kinds import BASES, MIRRORS, Archive, HubSnapshot, Kind, Member, RemoteFile, Source
from .ocr import bundled, bundled_orientation, ocr_names, pp_ocr, rough_ocr_size
from .preference import Preference
from .repository import Repository
from .tasks import Component, ModelTask

__all__ = [
    "BASES",
    "MIRRORS",
    "Archive",
    "HubSnapshot",
    "Kind",
    "Member",
    "Preference",
    "RemoteFile",
    "Repository",
    "Source",
    "bundled",
    "bundled_orientation",
    "checkpoint_names",
    "checkpoint_sources",
    "folder_for",
    "joint_source",
    "licence_of",
    "model_names",
    "rough_size_of",
    "sources_for",
]

_MAIN = "main"
NON_COMMERCIAL = tr("InsightFace: non-commercial research only")
_LICENCES = (("dfn", "Apple AMLR: research only"), ("nllb-clip", "CC-BY-NC-4.0"), ("SigLIP", "Apache-2.0"))


def model_names(task: ModelTask) -> tuple[str, ...]:
    """Every model of a task that has a source.

    Reads RapidOCR's table for OCR (17 ms with libyaml).
    """
    match task:
        case ModelTask.CLIP:
            return (*CHINESE_CLIP, *OPENCLIP, *MCLIP)
        case ModelTask.FACES:
            return tuple(INSIGHTFACE)
        case ModelTask.OCR:
            return ocr_names()


def folder_for(
    task: ModelTask, model: str, component: Component | None = None, *, revision: str = _MAIN
) -> PurePosixPath:
    """The folder a model's files lie in, relative to the cache: Immich's layout, 2.x and 3.3's revisions.

    The detector of a language-prefixed OCR model is shared: it lies in the folder of the name without the prefix.
    Chinese-CLIP is no export of Immich's and has no revisions. A CLIP may also be named by the address of a
    `Repository` or by the absolute path of a folder, which is then the answer.
    """
    if task == ModelTask.CLIP and model.startswith("/"):
        return PurePosixPath(model)
    if task == ModelTask.CLIP and (repository := Repository.parse(model)) is not None:
        return repository.folder
    if task == ModelTask.OCR and component == Component.DETECTION:
        model = model.rpartition("__")[2]
    folder = PurePosixPath(task, model)
    return folder if revision == _MAIN or model in CHINESE_CLIP else folder / revision


def sources_for(
    task: ModelTask,
    model: str,
    component: Component | None = None,
    *,
    organization: str = "immich-app",
    revision: str = _MAIN,
) -> tuple[Source, ...]:
    """The places that have a model, in the order in which they are tried.

    Args:
        model: a clean model name, e.g. ``ViT-B-32__openai``; of a CLIP also a `Repository`'s address or a folder.
        component: one of them only; None for both.
        organization: who has Immich's exports on Hugging Face.
        revision: of Immich's exports; another than ``main`` is had from Hugging Face only.

    Ask for the components of a language-prefixed OCR model one by one: they lie in different folders.

    Returns:
        () where nobody offers ready graphs, as of Chinese-CLIP RN50 and ViT-H-14: see `checkpoint_sources`.

    Raises:
        UnknownModel: the task has no such model.
    """
    if task == ModelTask.CLIP and model.startswith("/"):
        return ()
    if task == ModelTask.CLIP and (repository := Repository.parse(model)) is not None:
        return repository.sources(component)
    if task == ModelTask.CLIP and model in CHINESE_CLIP:
        return chinese_clip(CHINESE_CLIP[model], component)
    if task == ModelTask.CLIP and (model in OPENCLIP or model in MCLIP):
        return (immich_clip(f"{organization}/{model}", revision, component),)
    if task == ModelTask.FACES and model in INSIGHTFACE:
        return insightface(model, component, organization, revision)
    if task == ModelTask.OCR:
        return pp_ocr(model, component, organization, revision)
    raise UnknownModel(
        tr("no model {model!r} for {task}; `immich-ml-cn models list` shows them all", model=model, task=task)
    )


def licence_of(task: ModelTask, model: str) -> str:
    """The licence of a model's weights, in a few words."""
    if task == ModelTask.FACES:
        return NON_COMMERCIAL
    if task == ModelTask.OCR:
        return "Apache-2.0"
    return next((licence for mark, licence in _LICENCES if mark in model), "MIT")


def rough_size_of(task: ModelTask, model: str) -> int | None:
    """Bytes of both components of a model, None where nobody says; for a list, not for a check."""
    match task:
        case ModelTask.CLIP if model in CHINESE_CLIP:
            return CHINESE_CLIP[model].size
        case ModelTask.CLIP:
            return {**OPENCLIP, **MCLIP}.get(model)
        case ModelTask.FACES if model in INSIGHTFACE:
            return sum(member.size or 0 for member in INSIGHTFACE[model].members)
        case ModelTask.OCR if model in ocr_names():
            return rough_ocr_size(model)
    return None
