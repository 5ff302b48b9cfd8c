"""CLIP: image and text encoders, for Chinese-CLIP and for every CLIP in Immich's cache layout.

`load_visual` and `load_textual` build encoders from a model's folder; an encoder prepares an item
with a pure method (`VisualEncoder.prepare`, `TextualEncoder.tokenize`) and runs batches of them
with `infer`, which answers unit vectors and, where the graph gives them, unnormalised features.
"""

from .precision import choose_graph
from .textual import TextualEncoder, Tokens, load_textual
from .tokenizer import HuggingFaceTokenizer, Tokenizer
from .tower import Embedding
from .transform import ImageTransform, chinese_clip_transform
from .visual import VisualEncoder, load_visual
from .wordpiece import WordPieceTokenizer

__all__ = [
    "Embedding",
    "HuggingFaceTokenizer",
    "ImageTransform",
    "TextualEncoder",
    "Tokenizer",
    "Tokens",
    "VisualEncoder",
    "WordPieceTokenizer",
    "chinese_clip_transform",
    "choose_graph",
    "load_textual",
    "load_visual",
]
