"""The command line. What is heavy is imported inside the commands."""

import argparse
import sys
from collections.abc import Sequence

from . import __version__, logs, memory
from .commands import doctor, models
from .settings import Settings, SettingsError, switch_telemetry_off


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the process's exit code (2 for a setting or argument that cannot be used)."""
    switch_telemetry_off()
    options = parser().parse_args(arguments)
    try:
        settings = Settings.from_env()
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - there are no logs before there are settings
        return 2
    logs.set_up(settings.log_level, no_color=settings.no_color, as_json=settings.log_json)
    command: int = options.command(settings, options)
    return command


def parser() -> argparse.ArgumentParser:
    """The command line's grammar; each command leaves its function in ``command``."""
    line = argparse.ArgumentParser(prog="immich-ml-cn", description="Machine learning for Immich, in Chinese too.")
    line.add_argument("--version", action="version", version=f"immich-ml-cn {__version__}")
    line.set_defaults(command=_serve)
    commands = line.add_subparsers(title="commands")
    serve = commands.add_parser("serve", help="start the server (the default)")
    serve.set_defaults(command=_serve)
    models.add_parser(commands)
    doctor.add_parser(commands)
    return line


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    memory.use_one_heap()  # NumPy, which the server imports, starts threads
    from .web.server import serve

    return serve(settings)
