"""Checking the models in the cache: every file against what was fetched, every graph by loading it."""

from collections.abc import Iterator
from dataclasses import dataclass

from immich_ml_cn import sources
from immich_ml_cn.engines import EngineError, LoadError, checking_engine
from immich_ml_cn.errors import ServiceError
from immich_ml_cn.serving.catalogue import Catalogue
from immich_ml_cn.serving.spec import AnyModel, ModelSpec
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.tasks import Component, ModelTask
from immich_ml_cn.store import fetch
from immich_ml_cn.store.downloader import Downloader
from immich_ml_cn.store.inventory import Row, folder_of


@dataclass(frozen=True)
class Finding:
    """What was found of one part of a model; `problem` is None where it is good."""

    task: ModelTask
    model: str
    part: str
    problem: str | None


def verify(settings: Settings, row: Row) -> Iterator[Finding]:
    """Check the components of a model that are in the cache; nothing for one that is not there at all."""
    for component in row.task.components:
        folder = folder_of(settings, row.task, row.model, component)
        if (folder / component).is_dir():
            yield from _verify_files(settings, row, component)
            yield Finding(row.task, row.model, component, _graph_problem(settings, row, component))


def _verify_files(settings: Settings, row: Row, component: Component) -> Iterator[Finding]:
    offered: tuple[sources.Source, ...] = ()
    if row.model in sources.model_names(row.task):
        offered = sources.sources_for(row.task, row.model, component, revision=settings.model_revision)
    for check in fetch.check_files(offered, folder_of(settings, row.task, row.model, component)):
        if check.path.parts[0] == component and check.state in {fetch.State.MISSING, fetch.State.CHANGED}:
            yield Finding(row.task, row.model, str(check.path), f"the file is {check.state.value}")


def _graph_problem(settings: Settings, row: Row, component: Component) -> str | None:
    spec = _spec(settings, row, component)
    try:
        engine = checking_engine(settings)
        model = spec.build(lambda graph: engine.open(graph, spec.lane, 0))
    except (ServiceError, EngineError, LoadError, OSError) as error:
        return str(error)
    given = getattr(model, "dimension", None)
    if None not in (given, row.dimension) and given != row.dimension:
        return f"it gives {given} numbers instead of {row.dimension}"
    return None


def _spec(settings: Settings, row: Row, component: Component) -> ModelSpec[AnyModel]:
    catalogue = Catalogue(settings, Downloader(settings), on_gpu=False)
    return catalogue.spec(row.task, component, row.model)
