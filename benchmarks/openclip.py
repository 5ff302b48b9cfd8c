"""A CLIP as Immich's own exports of OpenCLIP lay it out: one item a run, 77 tokens, pooled at the end of the text."""

import json
from pathlib import Path

import numpy as np
from onnx import TensorProto

from .graph import Graph, tensor
from .models import DIMENSION, attention, build_visual, feed_forward, project

NAME = "ViT-B-16__laion400m_e31"
"""On Immich's list, of 512 numbers; here it is no name of Chinese-CLIP."""

QUERIES = (
    "a small dog on the beach at sunset",
    "my mother laughing with the new baby",
    "a blue lake below the snowy mountain",
    "friends eating hot pot in the kitchen",
)

CONTEXT = 77
VOCABULARY = 49408
_START, _END = "<|startoftext|>", "<|endoftext|>"
_IMAGE_CONFIG = {
    "size": [224, 224],
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def build(folder: Path) -> None:
    """Write the model's folder, ``<cache>/clip/<name>``."""
    (folder / "visual").mkdir(parents=True, exist_ok=True)
    (folder / "visual" / "preprocess_cfg.json").write_text(json.dumps(_IMAGE_CONFIG), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"text_cfg": {"context_length": CONTEXT}}), encoding="utf-8")
    build_visual(folder / "visual" / "model.onnx", batch=1, output="embedding")
    build_textual(folder / "textual" / "model.onnx")
    write_tokenizer(folder / "textual")


def build_textual(path: Path, *, layers: int = 12, width: int = 512) -> None:
    """OpenCLIP's text tower of ViT-B-16 and B-32: ``text`` int32 [1, 77] → ``embedding`` [1, 512]."""
    graph = Graph(seed=6)
    x = graph.op("Gather", graph.random(VOCABULARY, width, scale=0.02), "text")
    x = graph.op("Add", x, graph.random(CONTEXT, width, scale=0.01))
    causal = graph.constant(np.triu(np.full((CONTEXT, CONTEXT), -np.inf), 1))
    for _ in range(layers):
        x = graph.op("Add", x, attention(graph, graph.layer_norm(x, width), width, causal))
        x = graph.op("Add", x, feed_forward(graph, graph.layer_norm(x, width), width, quick=True))
    x = graph.layer_norm(x, width)
    end = graph.op("ArgMax", "text", axis=-1, keepdims=0)  # the end of the text has the largest id
    pooled = graph.op("GatherND", x, graph.op("Unsqueeze", end, graph.integers(1)), batch_dims=1)
    project(graph, pooled, width, "embedding")
    graph.save(path, [tensor("text", [1, CONTEXT], TensorProto.INT32)], {"embedding": [1, DIMENSION]})


def write_tokenizer(folder: Path) -> None:
    """CLIP's frame and numbers around one token for each word, as its vocabulary has for common words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = dict.fromkeys(word for query in QUERIES for word in query.split())
    vocabulary = {word: 320 + number for number, word in enumerate(words)}
    start, end = VOCABULARY - 2, VOCABULARY - 1
    tokenizer = Tokenizer(models.WordLevel({**vocabulary, _START: start, _END: end}, unk_token=_END))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = f"{_START} $A {_END}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[(_START, start), (_END, end)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": _END}), encoding="utf-8")
