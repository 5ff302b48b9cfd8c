"""A run's stages, of which one that fails does not keep the others."""

import traceback
from collections.abc import Callable, Collection


class Attempts:
    """Runs the stages that are wanted and notes those that fail."""

    def __init__(self, wanted: Collection[str], say: Callable[[str], None], failures: list[str]) -> None:
        self._wanted = wanted
        self._say = say
        self._failures = failures

    def __call__(self, stage: str, run: Callable[[], None]) -> None:
        """Run a stage, unless it is not wanted."""
        if stage not in self._wanted:
            return
        try:
            run()
        except Exception as error:
            self._failures.append(f"{stage} failed: {type(error).__name__}: {error}")
            self._say(f"{self._failures[-1]}\n{traceback.format_exc()}")
