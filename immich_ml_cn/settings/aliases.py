"""Which model answers to which of Immich's CLIP names, as a person writes it in a setting."""

from immich_ml_cn.messages import tr
from immich_ml_cn.sources.clip_names import (
    CHINESE_CLIP_DIMENSIONS,
    DEFAULT_ALIASES,
    DIRECT_NAMES,
    LISTED_DIMENSIONS,
    clean_name,
    known_name,
)

from .values import names


def parse_aliases(text: str) -> dict[str, str]:
    """Read the alias setting.

    Args:
        text: comma list applied to the default table: ``name=model`` adds or replaces, ``name=`` switches one off,
            ``none`` first switches all off. A model is a name, ``huggingface:owner/name`` or
            ``modelscope:owner/name`` (a CLIP in Immich's layout), or the absolute path of a folder.

    Raises:
        ValueError: not of that form, or a model whose known dimension is not the listed name's.
    """
    words = names(text)
    only = bool(words) and words[0].lower() == "none"
    aliases = {} if only else dict(DEFAULT_ALIASES)
    for word in words[only:]:
        asked, equals, model = (part.strip() for part in word.partition("="))
        name = known_name(clean_name(asked), LISTED_DIMENSIONS)
        model = known_name(model, (*CHINESE_CLIP_DIMENSIONS, *LISTED_DIMENSIONS, *DIRECT_NAMES))
        if not equals or not name:
            raise ValueError(tr("pairs name=model separated by commas, name= to switch one off, or none"))
        if "://" in model or ("/" in model and not model.startswith("/") and ":" not in model):
            raise ValueError(
                tr(
                    "pairs name=model, where a model is a name, huggingface:owner/name, modelscope:owner/name or the "
                    "absolute path of a folder"
                )
            )
        aliases.pop(name, None)
        if model:
            aliases[name] = model
    for name, model in aliases.items():
        _check_dimension(name, model)
    return aliases


def _check_dimension(name: str, model: str) -> None:
    promised = LISTED_DIMENSIONS.get(name)
    given = CHINESE_CLIP_DIMENSIONS.get(model, LISTED_DIMENSIONS.get(model))
    if promised is not None and given is not None and promised != given:
        raise ValueError(
            tr(
                "pairs of equal dimension: Immich stores {promised} numbers for {name}, but {model} gives {given}",
                promised=promised,
                name=name,
                model=model,
                given=given,
            )
        )
