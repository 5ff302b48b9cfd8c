"""BERT's encoder as an ONNX graph."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .architecture import Bert
from .graph import GraphBuilder
from .layers import Weights, attention, class_row, gelu, layer_norm, linear

_EPSILON = 1e-12
_MASKED = -10000.0
"""Added to the scores of what is padding."""


def encode_text(graph: GraphBuilder, bert: Bert, weights: Weights, text: str) -> str:
    """Token ids int32 [N, L], 0 where padded → what the projection takes, [N, 1, W]: the first token's row."""
    mask = _mask(graph, text)
    tokens = _embed(graph, bert, weights, text)
    for layer in range(bert.layers):
        tokens = _layer(graph, bert, weights, layer, tokens, mask)
    return tokens


def _mask(graph: GraphBuilder, text: str) -> str:
    """What is added to the scores: [N, 1, 1, L], 0 or a large negative number."""
    padding = graph.cast(graph.op("Equal", text, graph.constant(0, np.int32)), graph.dtype)
    bias = graph.op("Mul", padding, graph.constant(_MASKED))
    return graph.op("Unsqueeze", bias, graph.constant([1, 2], np.int64))


def _embed(graph: GraphBuilder, bert: Bert, weights: Weights, text: str) -> str:
    """Words and positions: [N, L, W]. All tokens are of type 0, whose embedding is added to the positions'."""
    name = "bert.embeddings"
    words = graph.weight(
        f"{name}.word_embeddings", (bert.words, bert.width), lambda: weights.read(f"{name}.word_embeddings.weight")
    )

    def positions() -> NDArray[Any]:
        first_type = weights.read(f"{name}.token_type_embeddings.weight")[:1]
        return weights.read(f"{name}.position_embeddings.weight") + first_type

    table = graph.weight(f"{name}.position_embeddings", (bert.positions, bert.width), positions)
    zero, one, two = (graph.constant([n], np.int64) for n in (0, 1, 2))
    length = graph.op("Slice", graph.op("Shape", text), one, two)
    tokens = graph.op("Add", graph.op("Gather", words, text), graph.op("Slice", table, zero, length, zero))
    return layer_norm(graph, weights, tokens, f"{name}.LayerNorm", bert.width, _EPSILON)


def _layer(graph: GraphBuilder, bert: Bert, weights: Weights, layer: int, tokens: str, mask: str) -> str:
    """One layer: [N, L, W] → [N, L, W]; of the last one only the first token's row is needed."""
    name = f"bert.encoder.layer.{layer}"
    queries = class_row(graph, tokens) if layer == bert.layers - 1 else tokens

    def part(index: int, kind: str) -> NDArray[Any]:
        return weights.read(f"{name}.attention.self.{('query', 'key', 'value')[index]}.{kind}")

    attended = attention(graph, queries, tokens, f"{name}.attention.self", bert.width, bert.heads, part, mask)
    output = f"{name}.attention.output"
    projected = linear(graph, weights, attended, f"{output}.dense", bert.width, bert.width)
    tokens = graph.op("Add", projected, queries)
    tokens = layer_norm(graph, weights, tokens, f"{output}.LayerNorm", bert.width, _EPSILON)
    hidden = linear(graph, weights, tokens, f"{name}.intermediate.dense", bert.width, bert.intermediate)
    hidden = linear(graph, weights, gelu(graph, hidden), f"{name}.output.dense", bert.intermediate, bert.width)
    return layer_norm(graph, weights, graph.op("Add", hidden, tokens), f"{name}.output.LayerNorm", bert.width, _EPSILON)
