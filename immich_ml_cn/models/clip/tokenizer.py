"""Text → token ids, as the CLIPs of Immich's layout expect: the ``tokenizer.json`` families."""

import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import tr

from .config import read_json
from .languages import DEFAULT_LANGUAGE, flores_code

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RustTokenizer

_NO_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


class Tokenizer(Protocol):
    """What a text tower needs of its tokenizer. Immutable."""

    @property
    def context_length(self) -> int:
        """Most ids of one text."""
        ...

    @property
    def pad_id(self) -> int:
        """The id that fills a text up."""
        ...

    @property
    def masks_padding(self) -> bool:
        """True if the models of this tokenizer ignore padding, so that it may be left out."""
        ...

    def normalize(self, text: str) -> str:
        """A query in the characters that the tokenizer knows."""
        ...

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """The ids of `text` without padding, at most `context_length`."""
        ...


class HuggingFaceTokenizer:
    """A ``tokenizer.json``, run by the `tokenizers` library (imported when one is loaded).

    NLLB's texts begin with the token of their language, as NLLB-CLIP was trained: ``zho_Hans``,
    the text, ``</s>``; a tokenizer is of that family when it knows such tokens.
    """

    masks_padding = False
    """OpenCLIP's text towers are of fixed length: their position embedding is added whole."""

    def __init__(
        self,
        tokenizer: "RustTokenizer",
        context_length: int,
        pad_token: str,
        canonicalize: bool = False,
    ) -> None:
        """
        Args:
            tokenizer: ours from now on; truncation and padding are set here.
            context_length: most ids of a text, special ones included.
            pad_token: the token that fills a text up.
            canonicalize: lower-case and drop ASCII punctuation first (SigLIP).

        Raises:
            Unavailable: the tokenizer does not know `pad_token`.
        """
        pad_id = tokenizer.token_to_id(pad_token)
        if pad_id is None:
            raise Unavailable(tr("the CLIP tokenizer does not know its padding token {token!r}", token=pad_token))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=context_length)
        self.context_length = context_length
        self.pad_id: int = pad_id
        self._tokenizer = tokenizer
        self._canonicalize = canonicalize
        self._nllb = _nllb_frame(tokenizer)

    @classmethod
    def from_folder(cls, folder: Path, context_length: int, canonicalize: bool = False) -> "HuggingFaceTokenizer":
        """Read ``tokenizer.json`` and, for the padding token, ``tokenizer_config.json``.

        Raises:
            Unavailable: a file is missing or broken.
        """
        from tokenizers import Tokenizer as RustTokenizer

        path = folder / "tokenizer.json"
        pad_token = _pad_token(read_json(folder / "tokenizer_config.json"))
        if pad_token is None:
            raise Unavailable(tr("{path} names no pad_token", path=folder / "tokenizer_config.json"))
        try:
            tokenizer = RustTokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise Unavailable(tr("{path} is no tokenizer: {reason}", path=path, reason=error)) from error
        return cls(tokenizer, context_length, pad_token, canonicalize)

    def normalize(self, text: str) -> str:
        """The text itself: these tokenizers bring what their models were trained with."""
        return text

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """The ids of `text` without padding, at most `context_length`.

        Args:
            text: of any length; runs of whitespace count as one space, and a lone surrogate as
                a question mark.
            language: the code of the client's language (``zh-CN``, ``en-null`` …), heeded by
                NLLB only, where None and unknown ones mean English.
        """
        text = self._clean(text)
        if self._nllb is None:
            ids: list[int] = self._tokenizer.encode(text).ids
            return ids
        english, end = self._nllb
        first = self._tokenizer.token_to_id(flores_code(language))
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        room = self.context_length - 2
        return [english if first is None else first, *ids[:room], end]

    def _clean(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode()
        if self._canonicalize:
            text = canonicalize(text)
        return " ".join(text.split())


def canonicalize(text: str) -> str:
    """Lower case, no ASCII punctuation, ``_`` as a space: big_vision's rule for SigLIP's texts."""
    return text.translate(_NO_PUNCTUATION).lower()


def _nllb_frame(tokenizer: "RustTokenizer") -> tuple[int, int] | None:
    """The ids of English and of the end, None where the tokenizer is not NLLB's."""
    english, mandarin, end = map(tokenizer.token_to_id, (DEFAULT_LANGUAGE, "zho_Hans", "</s>"))
    return None if english is None or mandarin is None or end is None else (english, end)


def _pad_token(config: Mapping[str, Any]) -> str | None:
    token = config.get("pad_token")
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
