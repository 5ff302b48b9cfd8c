"""CLIP's text tower: query → embedding."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.engines.graphs import edit_process, text_length
from immich_ml_cn.engines.graphs.files import graph_bytes
from immich_ml_cn.engines.session import OpenSession, Session, TensorInfo
from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import tr

from .config import read_json
from .tokenizer import HuggingFaceTokenizer, Tokenizer
from .tower import Embedding, Tower, refusal
from .wordpiece import CONTEXT_LENGTH, WordPieceTokenizer

logger = logging.getLogger(__name__)

_BUCKET = 8
_MASK = "attention_mask"

_PROBES = ("a dog", "a photo of a white dog that runs along the beach behind the waves at sunset in summer")
_PROBE_TOLERANCE = 1e-5

_CHARACTERS_PER_TOKEN = 64
"""More than the longest token of any vocabulary here has, on average over a whole text."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """A tokenised text.

    Attributes:
        ids: int64 (L,), special tokens included, no padding.
    """

    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


class TextualEncoder:
    """A loaded text tower, a `session.Model` of `Tokens` and embeddings."""

    def __init__(self, session: Session, tokenizer: Tokenizer) -> None:
        """
        Raises:
            Unavailable: the graph is no text tower, or one for another context length.
        """
        self.tokenizer = tokenizer
        self._ids, self._mask = _text_inputs(session)
        self._tower = Tower(session)
        length = _fixed_length(session)
        if length not in (None, tokenizer.context_length):
            raise Unavailable(
                tr(
                    "the CLIP text tower takes {length} tokens, its configuration says {configured}",
                    length=length,
                    configured=tokenizer.context_length,
                )
            )
        masked = self._mask is not None or tokenizer.masks_padding or text_length.MAX_LENGTH in session.metadata
        self.trims_padding = length is None and masked

    @property
    def dimension(self) -> int | None:
        """Length D of the embeddings, None where the graph leaves it open."""
        return self._tower.dimension

    def tokenize(self, text: str, language: str | None = None, normalize: bool = False) -> Tokens:
        """Pure: the ids of `text`.

        Args:
            text: the query, of any length; what does not fit is cut off.
            language: code of the client's language (``zh-CN``, ``en-null`` …), which NLLB heeds.
            normalize: read characters that the tokenizer does not know for those that they stand for.
        """
        # Tokenizers read all of a text before they cut it, the Rust ones while no other thread of Python runs.
        text = text.lstrip()[: _CHARACTERS_PER_TOKEN * self.tokenizer.context_length]
        known = self.tokenizer.normalize(text) if normalize else text
        return Tokens(np.array(self.tokenizer.encode(known, language), np.int64))

    def bucket(self, item: Tokens) -> Hashable:
        """Texts of like length share a batch; of any length where padding is not trimmed."""
        return -(-len(item) // _BUCKET) if self.trims_padding else None

    def infer(self, items: Sequence[Tokens]) -> list[Embedding]:
        """Embed texts, in order.

        The batch is padded to its longest text where the graph allows, else to the context length.

        Raises:
            InferenceFailed: an embedding is zero or not finite.
        """
        return self._embed(items, max(map(len, items)) if self.trims_padding else self.tokenizer.context_length)

    def ignores_padding(self) -> bool:
        """Whether texts of two lengths have the same embedding with padding as without. Runs the session."""
        for text in _PROBES:
            item = self.tokenize(text)
            (alone,), (padded,) = self.infer([item]), self._embed([item], self.tokenizer.context_length)
            if float(alone.vector @ padded.vector) < 1 - _PROBE_TOLERANCE:
                return False
        return True

    def _embed(self, items: Sequence[Tokens], length: int) -> list[Embedding]:
        """Embed texts, each padded to `length` tokens."""
        ids = np.full((len(items), length), self.tokenizer.pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, item in enumerate(items):
            ids[row, : len(item)] = item.ids
            mask[row, : len(item)] = 1
        feeds = {self._ids: ids}
        return self._tower.encode(feeds | {self._mask: mask} if self._mask else feeds)


def load_textual(
    folder: Path,
    model_file: Path,
    open_session: OpenSession,
    tokenizer: Tokenizer | None = None,
) -> TextualEncoder:
    """Load a text tower.

    Args:
        folder: the model's folder in Immich's layout, ``<cache>/clip/<name>``.
        model_file: the graph to open, of whichever precision.
        open_session: opens it.
        tokenizer: by default what `read_tokenizer` finds in `folder`.

    Raises:
        Unavailable: a file is missing or the graph is not understood.
    """
    if tokenizer is None:
        tokenizer = read_tokenizer(folder)
    encoder = _load_freed(model_file, open_session, tokenizer)
    return encoder or TextualEncoder(open_session(model_file), tokenizer)


def _load_freed(model_file: Path, open_session: OpenSession, tokenizer: Tokenizer) -> TextualEncoder | None:
    """The tower freed of its fixed length, None where it has none, or where that would change an embedding."""
    try:
        if graph_bytes(model_file) > text_length.MAX_BYTES or not text_length.looks_fixed(model_file):
            return None
        session = open_session(edit_process.with_any_length(model_file))
        if session.metadata.get(text_length.MAX_LENGTH) != str(tokenizer.context_length):
            return None
        encoder = TextualEncoder(session, tokenizer)
        return encoder if encoder.ignores_padding() else None
    except Exception as error:  # whatever is wrong with the file, opening it as it is says so
        logger.debug("%s keeps its length: %s", model_file, error)
        return None


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model in Immich's layout.

    ``textual/vocab.txt`` without a ``tokenizer.json`` beside it is Chinese-CLIP's, whose
    ``config.json`` may be missing; everything else is of the ``tokenizer.json`` families.

    Raises:
        Unavailable: a file is missing or broken.
    """
    textual = folder / "textual"
    vocabulary = textual / "vocab.txt"
    if vocabulary.exists() and not (textual / "tokenizer.json").exists():
        return _word_pieces(vocabulary, folder / "config.json")
    path = folder / "config.json"
    config = _text_config(path)
    length = _context_length(config)
    if length is None:
        raise Unavailable(tr("{path} names no text_cfg.context_length", path=path))
    options = config.get("tokenizer_kwargs") or {}
    canonical = isinstance(options, dict) and options.get("clean") == "canonicalize"
    return HuggingFaceTokenizer.from_folder(textual, length, canonical)


def _word_pieces(vocabulary: Path, config: Path) -> WordPieceTokenizer:
    length = _context_length(_text_config(config)) if config.exists() else None
    try:
        return WordPieceTokenizer.from_file(vocabulary, length or CONTEXT_LENGTH)
    except (OSError, ValueError, KeyError) as error:
        raise Unavailable(tr("{path} is no BERT vocabulary: {reason!r}", path=vocabulary, reason=error)) from error


def _text_config(path: Path) -> Mapping[str, Any]:
    config = read_json(path).get("text_cfg")
    return config if isinstance(config, dict) else {}


def _context_length(config: Mapping[str, Any]) -> int | None:
    length = config.get("context_length")
    return length if isinstance(length, int) and length >= 2 else None


def _text_inputs(session: Session) -> tuple[str, str | None]:
    """The names of the inputs for ids and, where there is one, for the attention mask."""
    names = {info.name for info in session.inputs}
    mask = _MASK if _MASK in names else None
    ids = [info.name for info in session.inputs if info.name != mask]
    if len(ids) != 1 or not all(map(_takes_tokens, session.inputs)):
        wanted = "one input int32 or int64 [batch, length], or two, ids and attention_mask"
        raise refusal(session, "text", wanted)
    return ids[0], mask


def _takes_tokens(info: TensorInfo) -> bool:
    return info.dtype in ("int32", "int64") and len(info.shape) == 2


def _fixed_length(session: Session) -> int | None:
    return next((info.shape[1] for info in session.inputs if info.shape[1] is not None), None)
