"""Chinese-CLIP's tokenizer: BERT's lower-casing WordPiece (Devlin et al. 2018) as cn-clip runs it.

Ids are equal to those of ``cn_clip.clip.tokenize`` for every string. For rare characters they depend
on the Unicode tables of the running Python, as cn-clip's do.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from .queries import normalized

BUNDLED_VOCABULARY = Path(__file__).with_name("vocab.txt")
CONTEXT_LENGTH = 52
LONGEST_WORD = 200

_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
_ASCII_PUNCTUATION = frozenset(r"""!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~""")


class WordPieceTokenizer:
    """Text → ``[CLS]`` + at most `context_length` - 2 word pieces + ``[SEP]``.

    Special tokens written in the text (``[MASK]``) are ordinary characters. The language of a query
    plays no part.
    """

    pad_id = 0
    masks_padding = True
    """Chinese-CLIP's text tower attends to ``text != 0`` only, so padding may be left out."""

    def __init__(self, vocabulary: Mapping[str, int], context_length: int = CONTEXT_LENGTH) -> None:
        """
        Args:
            vocabulary: word piece → id, with ``[CLS]``, ``[SEP]`` and ``[UNK]``.
            context_length: most ids of a text, the two special ones included.

        Raises:
            KeyError: a special token is missing from `vocabulary`.
        """
        self.context_length = context_length
        self._vocabulary = vocabulary
        self._cls, self._sep, self._unk = (vocabulary[t] for t in ("[CLS]", "[SEP]", "[UNK]"))

    @classmethod
    def from_file(cls, path: Path = BUNDLED_VOCABULARY, context_length: int = CONTEXT_LENGTH) -> "WordPieceTokenizer":
        """Read a BERT ``vocab.txt`` (UTF-8, one word piece a line, the line number is the id)."""
        return cls(read_vocabulary(path), context_length)

    def normalize(self, text: str) -> str:
        """A query in characters that the vocabulary has, which cn-clip would take for unknown words."""
        return normalized(text, self._vocabulary)

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """The ids of `text`, without padding: 2 … `context_length` of them."""
        room = self.context_length - 2
        ids: list[int] = []
        for word in _words(text):
            ids += self._pieces(word)
            if len(ids) >= room:
                break
        return [self._cls, *ids[:room], self._sep]

    def _pieces(self, word: str) -> list[int]:
        """Greedy longest match first; a word that cannot be covered is one unknown."""
        if len(word) > LONGEST_WORD:
            return [self._unk]
        ids = []
        start, prefix = 0, ""
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = self._vocabulary.get(prefix + word[start:end])
                if piece is not None:
                    break
            else:
                return [self._unk]
            ids.append(piece)
            start, prefix = end, "##"
        return ids


def read_vocabulary(path: Path) -> dict[str, int]:
    """Word piece → id from a BERT ``vocab.txt``.

    Lines end at a newline only: two entries of the Chinese vocabulary hold U+2028, at which
    `str.splitlines` would cut. They are stripped to nothing, as cn-clip does.
    """
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return {line.strip(): index for index, line in enumerate(lines)}


def _words(text: str) -> Iterator[str]:
    """Lower-cased, accent-free words; every ideograph and punctuation mark is one of its own."""
    for token in _tokens(text):
        decomposed = unicodedata.normalize("NFD", token.lower())
        yield from _split_punctuation(c for c in decomposed if c.isascii() or unicodedata.category(c) != "Mn")


def _tokens(text: str) -> Iterator[str]:
    """Split at whitespace and around ideographs; control and format characters vanish."""
    token: list[str] = []
    for char in text:
        ideograph = _is_ideograph(char)
        if not ideograph and not _is_space(char):
            if not _is_control(char):
                token.append(char)
            continue
        if token:
            yield "".join(token)
            token = []
        if ideograph:
            yield char
    if token:
        yield "".join(token)


def _split_punctuation(chars: Iterator[str]) -> Iterator[str]:
    word: list[str] = []
    for char in chars:
        if not _is_punctuation(char):
            word.append(char)
            continue
        if word:
            yield "".join(word)
            word = []
        yield char
    if word:
        yield "".join(word)


def _is_ideograph(char: str) -> bool:
    return char >= "\u3400" and any(low <= ord(char) <= high for low, high in _IDEOGRAPHS)


def _is_space(char: str) -> bool:
    """Tab, newline, return and Unicode's separators; the other control characters are no space."""
    return char in " \t\n\r" or (char.isspace() and not _is_control(char))


def _is_control(char: str) -> bool:
    return char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char: str) -> bool:
    """Unicode's punctuation and, beyond it, every ASCII character that is no letter or digit."""
    return char in _ASCII_PUNCTUATION or unicodedata.category(char).startswith("P")
