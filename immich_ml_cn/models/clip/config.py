"""The JSON files beside a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import tr


def read_json(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file of a model.

    Raises:
        Unavailable: the file is missing or holds no JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Unavailable(tr("{path} cannot be read: {reason}", path=path, reason=error.strerror)) from error
    except ValueError as error:
        raise Unavailable(tr("{path} is not JSON: {reason}", path=path, reason=error)) from error
    if not isinstance(config, dict):
        raise Unavailable(tr("{path} holds no JSON object", path=path))
    return config
