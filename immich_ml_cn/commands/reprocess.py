"""`immich-ml-cn reprocess ASSET…`: text, embedding and faces of single photos of Immich's, made again."""

import argparse
from typing import Final

from immich_ml_cn.messages import Translator, tr
from immich_ml_cn.settings import Settings

_PARTS: Final = {
    "ocr": tr("its text (with no part named: text and embedding)"),
    "clip": tr("its embedding, for search"),
    "faces": tr("its faces"),
}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", say: Translator) -> None:
    """Add the command to the command line."""
    line = commands.add_parser("reprocess", help=say(tr("make text, embedding or faces of single photos again")))
    line.add_argument("assets", nargs="+", metavar="ASSET", help=say(tr("ids, or links from Immich's address bar")))
    for part, meaning in _PARTS.items():
        line.add_argument(f"--{part}", action="store_true", help=say(meaning))
    line.add_argument(
        "--wait", type=float, default=60.0, metavar="SECONDS", help=say(tr("how long to wait for Immich"))
    )
    line.set_defaults(command=_run)


def _run(settings: Settings, options: argparse.Namespace) -> int:
    from .photo_jobs import run  # with what stands in front of Immich, which nothing else needs

    parts = [part for part in _PARTS if getattr(options, part)] or ["ocr", "clip"]
    return run(settings, options.assets, parts, options.wait)
