"""JSON that others send: an object, or nothing that can be used."""

from typing import TypeAlias

import orjson

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


def json_object(body: bytes) -> dict[str, Json] | None:
    """The object that a body holds, None where it is no JSON or no object."""
    try:
        document = orjson.loads(body)
    except (orjson.JSONDecodeError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
