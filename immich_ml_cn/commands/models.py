"""`immich-ml-cn models`: list, fetch, verify, where, remove. Tables for people, ``--json`` for scripts."""

import argparse
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from immich_ml_cn import sources
from immich_ml_cn.errors import ServiceError
from immich_ml_cn.messages import Translator, tr
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.clip_names import clean_name
from immich_ml_cn.sources.tasks import ModelTask
from immich_ml_cn.store.conversion.architecture import ARCHITECTURES
from immich_ml_cn.store.conversion.graph import PRECISIONS, Precision
from immich_ml_cn.store.downloader import Downloader
from immich_ml_cn.store.inventory import Presence, Row, find, folder_of, inventory, lacking
from immich_ml_cn.store.removal import plan_removal

from .console import Console
from .local_server import LocalServer
from .removal import remove
from .verification import verify

logger = logging.getLogger(__name__)

IMMICH_DEFAULTS = ("ViT-B-32__openai", "buffalo_l", "PP-OCRv5_mobile")
"""What an unchanged Immich server asks for."""

_HERE = {
    Presence.CACHED: tr("in the cache"),
    Presence.BUNDLED: tr("bundled"),
    Presence.PARTLY: tr("partly"),
    Presence.MISSING: tr("missing"),
}

Command = Callable[[Settings, argparse.Namespace], int]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", say: Translator) -> None:
    """Add `models` and what belongs to it to the command line."""
    models = commands.add_parser("models", help=say(tr("list, fetch, check and remove models")))
    actions = models.add_subparsers(title=say(tr("actions")), required=True)
    _action(actions, "list", say(tr("what can be served, and what of it is here")), _list)
    names = _action(actions, "fetch", say(tr("bring models into the cache")), _fetch)
    names.add_argument("names", nargs="*", metavar="NAME", help=say(tr("as Immich or `models list` calls it")))
    names.add_argument("--all-defaults", action="store_true", help=say(tr("the models an unchanged Immich asks for")))
    names.add_argument("--fp16", action="store_true", help=say(tr("of Chinese-CLIPs also model_fp16.onnx, for GPUs")))
    names.add_argument("--int8", action="store_true", help=say(tr("of Chinese-CLIPs also model_int8.onnx, for CPUs")))
    _action(actions, "verify", say(tr("check every file and graph in the cache")), _verify)
    where = _action(actions, "where", say(tr("the cache's folder, or a model's")), _where)
    where.add_argument("names", nargs="*", metavar="NAME")
    removal = _action(actions, "remove", say(tr("list a model's files in the cache, ask, and delete them")), _remove)
    removal.add_argument("names", nargs="+", metavar="NAME")
    removal.add_argument("--yes", action="store_true", help=say(tr("do not ask")))


def _action(actions: Any, name: str, help_text: str, command: Command) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=help_text)
    parser.add_argument("--json", action="store_true", help="JSON")
    parser.set_defaults(command=command)
    return parser


# --- list ---


def _list(settings: Settings, options: argparse.Namespace) -> int:
    console = Console(settings)
    loaded = LocalServer(settings).ready_models()
    rows = list(inventory(settings))
    if options.json:
        console.json([_as_dict(row, loaded) for row in rows])
        return 0
    header = (tr("MODEL"), tr("NAME IN IMMICH"), tr("DIM"), tr("SIZE"), tr("HERE"), tr("LICENCE"))
    for task in ModelTask:
        console.print(f"\n{task}")
        console.table(("", *header), [_cells(row, loaded) for row in rows if row.task == task])
    console.print()
    console.print(tr("★ is recommended. The cache is {folder}.", folder=settings.cache_folder))
    console.print(
        tr("`immich-ml-cn models fetch NAME` brings what is missing; so does the first request that needs it.")
    )
    console.print(tr("After a change of the CLIP model: Smart Search → All in Immich."))
    return 0


def _cells(row: Row, loaded: frozenset[str]) -> tuple[object, ...]:
    return (
        "★" if row.recommended else "",
        row.model,
        ", ".join(row.names),
        str(row.dimension or ""),
        _megabytes(row.size),
        tr("loaded") if _is_loaded(row, loaded) else _HERE[row.presence],
        row.licence,
    )


def _as_dict(row: Row, loaded: frozenset[str]) -> dict[str, Any]:
    return {
        "task": row.task,
        "model": row.model,
        "names": row.names,
        "dimension": row.dimension,
        "bytes": row.size,
        "licence": row.licence,
        "recommended": row.recommended,
        "presence": row.presence.value,
        "loaded": _is_loaded(row, loaded),
        "folders": [str(folder) for folder in row.folders],
    }


def _is_loaded(row: Row, loaded: frozenset[str]) -> bool:
    return any(key.startswith(f"{row.task}/{row.model}/") for key in loaded)


# --- fetch ---


@dataclass(frozen=True)
class Fetched:
    """The outcome for one model; `error` is None when all of it is here."""

    task: ModelTask
    model: str
    error: ServiceError | None


def _fetch(settings: Settings, options: argparse.Namespace) -> int:
    names = [*options.names, *(IMMICH_DEFAULTS if options.all_defaults else ())]
    console = Console(settings)
    if not names:
        console.complain(tr("name a model, or say --all-defaults; `immich-ml-cn models list` shows them all"))
        return 2
    wanted = _resolve(settings, names)
    if wanted is None:
        return 2
    downloader = Downloader(settings)
    precisions: list[Precision] = [name for name in ("fp16", "int8") if getattr(options, name)]
    outcomes = [_fetch_one(settings, downloader, task, model, precisions) for task, model in wanted]
    downloader.close()
    if options.json:
        console.json([_outcome(outcome) for outcome in outcomes])
    for outcome in outcomes if not options.json else ():
        console.print(tr("{model}: {outcome}", model=outcome.model, outcome=outcome.error or tr("here")))
    return int(any(outcome.error for outcome in outcomes))


def _outcome(fetched: Fetched) -> dict[str, Any]:
    error = None if fetched.error is None else str(fetched.error)
    return {"task": fetched.task, "model": fetched.model, "error": error}


def _fetch_one(
    settings: Settings, downloader: Downloader, task: ModelTask, model: str, precisions: Sequence[Precision]
) -> Fetched:
    if task == ModelTask.FACES:
        logger.warning("%s: %s", model, sources.NON_COMMERCIAL)
    try:
        if model in ARCHITECTURES and (precisions or settings.clip_precision in PRECISIONS[1:]):
            downloader.ensure_precisions(model, precisions)
        for component in task.components:
            if lacking(settings, task, model, component):
                downloader.ensure_now(task, model, component)
    except ServiceError as error:
        return Fetched(task, model, error)
    return Fetched(task, model, None)


# --- verify ---


def _verify(settings: Settings, options: argparse.Namespace) -> int:
    findings = [finding for row in inventory(settings) for finding in verify(settings, row)]
    bad = [finding for finding in findings if finding.problem]
    console = Console(settings)
    if options.json:
        console.json([asdict(finding) for finding in findings])
        return int(bool(bad))
    if not findings:
        console.print(tr("there are no models in {folder}", folder=settings.cache_folder))
        return 0
    results = [(finding.model, finding.part, finding.problem or tr("good")) for finding in findings]
    console.table((tr("MODEL"), tr("PART"), tr("RESULT")), results)
    if bad:
        console.print()
        console.print(
            tr("{bad} of {all} are wrong: remove the model, then fetch it again.", bad=len(bad), all=len(findings))
        )
    return int(bool(bad))


# --- where, remove ---


def _where(settings: Settings, options: argparse.Namespace) -> int:
    wanted = _resolve(settings, options.names)
    if wanted is None:
        return 2
    folders = [_folders(settings, task, model) for task, model in wanted]
    paths = [folder for group in folders for folder in group] or [settings.cache_folder]
    console = Console(settings)
    if options.json:
        console.json([str(path) for path in paths])
    for path in paths if not options.json else ():
        console.print(path)
    return 0


def _remove(settings: Settings, options: argparse.Namespace) -> int:
    """Say what would be deleted, ask, and delete it."""
    wanted = _resolve(settings, options.names)
    if wanted is None:
        return 2
    try:
        removals = {model: plan_removal(settings, task, model) for task, model in wanted}
        return remove(settings, removals, as_json=options.json, agreed=options.yes)
    except OSError as error:
        reason = error.strerror
        Console(settings).complain(tr("{path} cannot be removed: {reason}", path=error.filename, reason=reason))
        return 1


def _folders(settings: Settings, task: ModelTask, model: str) -> list[Path]:
    folders = [folder_of(settings, task, model, component) for component in task.components]
    return list(dict.fromkeys(folders))


def _resolve(settings: Settings, names: Iterable[str]) -> list[tuple[ModelTask, str]] | None:
    """Task and folder name of each model, None after a complaint about an unknown name."""
    wanted = []
    for name in names:
        found = find(settings, clean_name(name))
        if found is None:
            Console(settings).complain(
                tr("there is no model {name!r}; `immich-ml-cn models list` shows them all", name=name)
            )
            return None
        wanted.append(found)
    return list(dict.fromkeys(wanted))


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:,.0f} MB"
