#!/usr/bin/env python3
"""Write the tables of the documents that repeat the code: settings, models, the corpus of bad input.

    scripts/generate_docs.py           rewrites the files that are out of date and names them
    scripts/generate_docs.py --check   only names them, and exits with 1 if there are any

Each table stands between `<!-- table NAME -->` and `<!-- end -->`; everything else in a file is left as it is. In a
translation the last column of the settings' tables, which is prose, stays as well.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

import corpus  # noqa: E402 - of tests/

from immich_ml_cn.settings import INERT, meanings, variables  # noqa: E402
from immich_ml_cn.sources import (  # noqa: E402
    Archive,
    HubSnapshot,
    Source,
    checkpoint_names,
    checkpoint_sources,
    licence_of,
    model_names,
    rough_size_of,
    sources_for,
)
from immich_ml_cn.sources.clip import CHINESE_CLIP  # noqa: E402
from immich_ml_cn.sources.tasks import ModelTask  # noqa: E402

DOCUMENTS = ("docs/settings.md", "docs/settings.zh-CN.md", "docs/reliability.md", "models/README.md")
OURS_FROM = "MACHINE_LEARNING_PROVIDER"
"""The first variable that Immich's own service does not have."""

Rows = Mapping[str, tuple[str, ...]]
"""The rows of a table: first cell → the others."""


def immich_settings() -> Rows:
    """Variables that Immich's own service has."""
    return _settings(ours=False)


def our_settings() -> Rows:
    """Variables that only this server has."""
    return _settings(ours=True)


def inert_settings() -> Rows:
    """Variables that are accepted and do nothing."""
    return {f"`{name}`": (purpose,) for name, purpose in INERT.items()}


def _settings(*, ours: bool) -> Rows:
    documented: dict[str, tuple[str, ...]] = {}
    is_ours = False
    for variable in variables().values():
        default = f"`{variable.default_text}`" if variable.default_text else ""
        is_ours = is_ours or variable.name == OURS_FROM
        aliases = "".join(f" Also read: `{alias}`." for alias in variable.aliases)
        if ours == is_ours:
            documented[f"`{variable.name}`"] = (default, meanings()[variable.name] + aliases)
    return documented


def _models(task: ModelTask, names: Iterable[str]) -> Rows:
    return {f"`{name}`": _model(task, name) for name in names}


def _model(task: ModelTask, name: str) -> tuple[str, ...]:
    size = rough_size_of(task, name)
    offered = (*_checkpoints(task, name), *sources_for(task, name))
    origin = "<br>".join(dict.fromkeys(map(_origin, offered)))
    return ("" if size is None else f"{size / 1e6:,.0f} MB", licence_of(task, name), origin)


def _checkpoints(task: ModelTask, name: str) -> tuple[Source, ...]:
    """The official file of a Chinese-CLIP on both hubs."""
    if task is not ModelTask.CLIP or name not in CHINESE_CLIP:
        return ()
    official, *_ = checkpoint_names(name)
    return tuple(source for source in checkpoint_sources(name) if source.required[0].name == official)


def _origin(source: Source) -> str:
    match source.content:
        case HubSnapshot(repo=repo, pinned=((name, sha256),)):
            return f"Hugging Face `{repo}`: `{name}` `{sha256}`"
        case HubSnapshot(repo=repo):
            return f"Hugging Face `{repo}`"
        case Archive(url=url, sha256=sha256, members=members):
            inner = ", ".join(f"`{member.name}` `{member.sha256}`" for member in members)
            return f"{url} `{sha256}`: {inner}"
        case files:
            return "<br>".join(f"{file.url}" + (f" `{file.sha256}`" if file.sha256 else "") for file in files)


def corpus_counts() -> Rows:
    """How much bad input there is of each kind."""
    counts = {
        "pictures of every format and mode": sum(1 for _ in corpus.valid_pictures()),
        "broken pictures: cut, changed, empty, bombs, lies about EXIF and ICC": sum(
            1 for _ in corpus.broken_pictures()
        ),
        "entries: deep, long, NaN, giant numbers": sum(1 for _ in corpus.strange_entries()),
        "forms broken in every way": sum(1 for _ in corpus.strange_forms()),
        "names of models: `../`, NUL, 10,000 characters; each for three tasks": len(corpus.STRANGE_NAMES),
        "sockets full of nonsense": len(corpus.STRANGE_SOCKETS),
    }
    return {what: (str(count),) for what, count in counts.items()}


TABLES: Mapping[str, Callable[[], Rows]] = {
    "immich": immich_settings,
    "ours": our_settings,
    "inert": inert_settings,
    "chinese-clip": lambda: _models(ModelTask.CLIP, CHINESE_CLIP),
    "clip": lambda: _models(ModelTask.CLIP, sorted(set(model_names(ModelTask.CLIP)) - set(CHINESE_CLIP))),
    "faces": lambda: _models(ModelTask.FACES, model_names(ModelTask.FACES)),
    "ocr": lambda: _models(ModelTask.OCR, model_names(ModelTask.OCR)),
    "corpus": corpus_counts,
}
PROSE = ("immich", "ours", "inert")
"""Tables whose last column is translated."""


def rewritten(text: str, *, translation: bool = False) -> str:
    """A document with its tables brought up to date; their headings stay.

    Args:
        translation: keep the last cell of a row of prose that is there already.
    """

    def replace(match: re.Match[str]) -> str:
        name, heading = match[1], match[2]
        kept = _last_cells(match[3]) if translation and name in PROSE else {}
        lines = [
            _row(first, *cells[:-1], kept.get(first, cells[-1].replace("|", "\\|")))
            for first, cells in TABLES[name]().items()
        ]
        return f"<!-- table {name} -->\n{heading}{''.join(lines)}<!-- end -->"

    return re.sub(r"<!-- table ([\w-]+) -->\n((?:\|.*\n){2})((?:\|.*\n)*)<!-- end -->", replace, text)


def _row(*cells: str) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|\n"


def _last_cells(lines: str) -> dict[str, str]:
    split = [re.split(r"(?<!\\)\|", line) for line in lines.splitlines()]
    return {cells[1].strip(): cells[-2].strip() for cells in split}


def main() -> int:
    """Bring the documents up to date, or say which are not."""
    parser = argparse.ArgumentParser(description="Write the tables of the documents from the code.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where something would change")
    check = parser.parse_args().check
    outdated = 0
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = rewritten(before, translation=name.endswith(".zh-CN.md"))
        if after == before:
            continue
        outdated += 1
        print(f"{name} {'is out of date' if check else 'rewritten'}")
        if not check:
            path.write_text(after, encoding="utf-8")
    return int(check and outdated > 0)


if __name__ == "__main__":
    sys.exit(main())
