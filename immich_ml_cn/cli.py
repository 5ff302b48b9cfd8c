"""The command line. What is heavy is imported inside the commands."""

import argparse
import os
import sys
from collections.abc import Sequence

from . import __version__, logs, memory
from .commands import doctor, models, photo, reprocess, search
from .messages import Translator, tr
from .settings import Settings, SettingsError
from .settings.environment import locale_language, switch_telemetry_off


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the process's exit code (2 for a setting or argument that cannot be used)."""
    switch_telemetry_off()
    say = Translator(locale_language())
    options = parser(say).parse_args(arguments)
    try:
        settings = Settings.from_env()
    except SettingsError as error:
        print(say(error), file=sys.stderr)  # noqa: T201 - there are no logs before there are settings
        return 2
    logs.set_up(
        settings.log_level,
        no_color=settings.no_color,
        as_json=settings.log_json,
        language=settings.language,
        redact=logs.Redaction(settings),
    )
    try:
        command: int = options.command(settings, options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as head, has seen enough; what is left would fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return command


def parser(say: Translator) -> argparse.ArgumentParser:
    """The command line's grammar; each command leaves its function in ``command``."""
    line = argparse.ArgumentParser(
        prog="immich-ml-cn", description=say(tr("Machine learning for Immich, in Chinese too."))
    )
    line.add_argument("--version", action="version", version=f"immich-ml-cn {__version__}")
    line.set_defaults(command=_serve)
    commands = line.add_subparsers(title=say(tr("commands")))
    serve = commands.add_parser("serve", help=say(tr("start the server (the default)")))
    serve.set_defaults(command=_serve)
    models.add_parser(commands, say)
    doctor.add_parser(commands, say)
    photo.add_parser(commands, say)
    reprocess.add_parser(commands, say)
    search.add_parser(commands, say)
    return line


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    memory.use_one_heap()  # NumPy, which the server imports, starts threads
    from .web.server import serve

    return serve(settings)
