"""`immich-ml-cn search`: what a search for text finds, and what is kept for it."""

import argparse
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Final

from immich_ml_cn.messages import Translator, tr
from immich_ml_cn.settings import Settings

from .console import Console

if TYPE_CHECKING:
    from immich_ml_cn.search.folder import Folder
    from immich_ml_cn.search.reader import Reader
    from immich_ml_cn.search.texts import Match

SHOWN: Final = 20
"""Photos that are printed unless another number is asked for."""

TIERS: Final = {"EXACT": tr("exact"), "ACROSS_LINES": tr("across lines"), "MISREAD": tr("one character differs")}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", say: Translator) -> None:
    """Add `search` to the command line."""
    parser = commands.add_parser("search", help=say(tr("look for text in the photos that were seen")))
    parser.add_argument("query", nargs="?", default="", metavar="QUERY", help=say(tr("as after `ocr:` in Immich")))
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--stats", action="store_true", help=say(tr("how many photos are kept, and where")))
    what.add_argument("--clear", action="store_true", help=say(tr("forget them all")))
    parser.add_argument("--limit", type=int, default=SHOWN, metavar="N", help=say(tr("photos to show, at most")))
    parser.add_argument("--json", action="store_true", help="JSON")
    parser.set_defaults(command=_search)


def _search(settings: Settings, options: argparse.Namespace) -> int:
    import sqlite3  # only here: the command line starts without the index

    from immich_ml_cn.search.folder import Folder

    console = Console(settings)
    folder = Folder(settings.cache_folder, settings.search_max_photos)
    try:
        if options.clear:
            folder.clear()
            console.print(tr("{folder}: every photo is forgotten", folder=folder.path))
        elif options.stats:
            _print_stats(console, folder, as_json=options.json)
        elif options.query:
            _print_matches(console, folder, options)
        else:
            console.complain(tr("say what to search for, or --stats or --clear"))
            return 2
    except (OSError, sqlite3.Error) as error:
        console.complain(tr("{folder} cannot be used: {reason}", folder=folder.path, reason=str(error)))
        return 1
    return 0


def _print_stats(console: Console, folder: "Folder", *, as_json: bool) -> None:
    from immich_ml_cn.search.reader import Reader

    contents, reader = folder.contents(), Reader(folder)
    photos = [(model, dimension, reader.photos(model, dimension).count) for model, dimension in folder.models()]
    if as_json:
        rows = [{"model": model, "dimension": dimension, "photos": count} for model, dimension, count in photos]
        console.json({"folder": str(folder.path), "models": rows, "texts": contents.texts, "bytes": contents.size})
        return
    console.print(str(folder.path))
    console.print(
        tr("{count} photos with text, {megabytes:.1f} MB in all", count=contents.texts, megabytes=contents.size / 1e6)
    )
    for model, dimension, count in photos:
        console.print(
            tr(
                "{count} photos with an embedding of {dimension} numbers, {model}",
                count=count,
                dimension=dimension,
                model=model,
            )
        )


def _print_matches(console: Console, folder: "Folder", options: argparse.Namespace) -> None:
    from immich_ml_cn.search.query import for_text
    from immich_ml_cn.search.reader import Reader

    with closing(Reader(folder)) as reader:
        matches = reader.match(for_text(options.query))
        shown = matches[: max(0, options.limit)]
        placed = _embedded(folder, reader, shown)
    if options.json:
        console.json([_as_dict(match, has) for match, has in zip(shown, placed, strict=True)])
        return
    header: tuple[object, ...] = (tr("FIT"), tr("SCORE"), tr("EMBEDDING"), tr("TEXT"))
    rows = [_cells(match, has) for match, has in zip(shown, placed, strict=True)]
    if rows:
        console.table(header, rows)
    console.print(tr("{count} photos have this text", count=len(matches)))


def _embedded(folder: "Folder", reader: "Reader", matches: "Sequence[Match]") -> list[bool]:
    """Which photos have an embedding under any model: only those can be put first in Immich."""
    digests = [match.digest for match in matches]
    known = [reader.photos(model, dimension).find(digests) >= 0 for model, dimension in folder.models()]
    return [any(column) for column in zip(*known, strict=True)] if known else [False] * len(matches)


def _cells(match: "Match", has_embedding: bool) -> tuple[object, ...]:
    return (
        TIERS[match.tier.name],
        f"{match.score:.2f}",
        tr("yes") if has_embedding else tr("no"),
        match.text.replace("\n", " / "),
    )


def _as_dict(match: "Match", has_embedding: bool) -> dict[str, object]:
    return {
        "digest": match.digest.hex(),
        "fit": match.tier.name.lower(),
        "score": round(match.score, 4),
        "embedding": has_embedding,
        "text": match.text.split("\n"),
    }
