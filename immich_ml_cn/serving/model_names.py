"""The names that requests use for models, and the models that answer to them."""

import re
from typing import Final

from immich_ml_cn import sources
from immich_ml_cn.errors import UnknownModel
from immich_ml_cn.messages import tr
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.clip_names import DIRECT_NAMES, clean_name, known_name
from immich_ml_cn.sources.tasks import ModelTask

MAX_NAME_BYTES: Final = 128
"""A folder's name may have 255 bytes; no model has more than these."""


class ModelNames:
    """Names that can be served: known ones, aliases, and folders in the cache."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def clip(self, name: str) -> tuple[str, str]:
        """The cleaned name that was asked for, and the model that answers to it.

        Raises:
            UnknownModel: it cannot be served.
        """
        asked = self.known(ModelTask.CLIP, name)
        model = self._settings.clip_aliases.get(asked, asked)
        return asked, DIRECT_NAMES.get(model, model)

    def known(self, task: ModelTask, name: str) -> str:
        """The cleaned name.

        Raises:
            UnknownModel: it cannot be served; the message lists those that can.
        """
        cleaned = clean_name(name)
        if re.fullmatch(r"[\w+-]+", cleaned) and len(cleaned.encode()) <= MAX_NAME_BYTES:
            others = (*DIRECT_NAMES, *self._settings.clip_aliases) if task is ModelTask.CLIP else ()
            names = (*sources.model_names(task), *others)
            if (self._settings.cache_folder / task / cleaned).is_dir():
                return cleaned
            if (found := known_name(cleaned, names)) in names:
                return found
        shown = name if len(name) <= 60 else name[:60] + "…"
        raise UnknownModel(
            tr(
                "Unknown {task} model {name!r}. Known are: {known}",
                task=task,
                name=shown,
                known=", ".join(sources.model_names(task)),
            )
        )
