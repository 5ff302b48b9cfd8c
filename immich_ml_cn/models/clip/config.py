"""The JSON files beside a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from immich_ml_cn.errors import Unavailable


def read_json(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file of a model.

    Raises:
        Unavailable: the file is missing or holds no JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Unavailable(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise Unavailable(f"{path} holds no JSON object")
    return config
