"""The layers that the towers are made of, as nodes."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .graph import GraphBuilder


class Weights(Protocol):
    """The weights of a model under cn_clip's names, see `ModelWeights.read`."""

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor."""
        ...


Part: TypeAlias = Callable[[int, str], NDArray[Any]]
"""(0 for query, 1 for key, 2 for value; ``weight`` or ``bias``) → (outputs, inputs) or (outputs,)."""


def layer_norm(graph: GraphBuilder, weights: Weights, value: str, name: str, width: int, epsilon: float) -> str:
    """Layer normalisation (Ba et al. 2016) over the last axis, computed in float32 whatever the precision."""
    scale = graph.weight(f"{name}.weight", (width,), lambda: weights.read(f"{name}.weight"))
    bias = graph.weight(f"{name}.bias", (width,), lambda: weights.read(f"{name}.bias"))
    return graph.op("LayerNormalization", value, scale, bias, axis=-1, epsilon=epsilon)


def linear(graph: GraphBuilder, weights: Weights, value: str, name: str, inputs: int, outputs: int) -> str:
    """PyTorch's Linear: [..., inputs] → [..., outputs]."""
    return graph.linear(
        value,
        name,
        (inputs, outputs),
        lambda: weights.read(f"{name}.weight").T,
        lambda: weights.read(f"{name}.bias"),
    )


def attention(
    graph: GraphBuilder,
    queries: str,
    tokens: str,
    name: str,
    width: int,
    heads: int,
    part: Part,
    bias: str | None = None,
) -> str:
    """Multi-head attention (Vaswani et al. 2017) without its output projection: [N, Q, W] → [N, Q, W].

    The scale of the scores is in the query's weights.

    Args:
        queries: [N, Q, W].
        tokens: [N, L, W], of which keys and values are made.
        name: prefix of the weights.
        bias: added to the scores, e.g. [N, 1, 1, L].
    """
    scale = (width // heads) ** -0.5

    def project(index: int, value: str, factor: float = 1.0) -> str:
        projected = graph.linear(
            value,
            f"{name}.{('query', 'key', 'value')[index]}",
            (width, width),
            lambda: part(index, "weight").T * np.float32(factor),
            lambda: part(index, "bias") * np.float32(factor),
        )
        split = graph.constant([0, 0, heads, width // heads], np.int64)
        return graph.op("Reshape", projected, split)  # (N, L, H, W / H)

    query = graph.op("Transpose", project(0, queries, scale), perm=[0, 2, 1, 3])
    key = graph.op("Transpose", project(1, tokens), perm=[0, 2, 3, 1])
    value = graph.op("Transpose", project(2, tokens), perm=[0, 2, 1, 3])
    scores = graph.op("MatMul", query, key)  # (N, H, Q, L)
    if bias is not None:
        scores = graph.op("Add", scores, bias)
    mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), value)  # (N, H, Q, W / H)
    mixed = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])
    return graph.op("Reshape", mixed, graph.constant([0, 0, width], np.int64))


def class_row(graph: GraphBuilder, tokens: str) -> str:
    """The first row, [N, L, W] → [N, 1, W]: nothing else of the last layer is ever looked at."""
    begin, end, axis = (graph.constant([n], np.int64) for n in (0, 1, 1))
    return graph.op("Slice", tokens, begin, end, axis)


def quick_gelu(graph: GraphBuilder, value: str) -> str:
    """``x * sigmoid(1.702 x)``, with which CLIP was trained."""
    gate = graph.op("Sigmoid", graph.op("Mul", value, graph.constant(1.702)))
    return graph.op("Mul", value, gate)


def gelu(graph: GraphBuilder, value: str) -> str:
    """``x * (1 + erf(x / sqrt 2)) / 2`` (Hendrycks & Gimpel 2016), in the form that engines replace by one node."""
    erf = graph.op("Erf", graph.op("Div", value, graph.constant(np.sqrt(2.0))))
    product = graph.op("Mul", value, graph.op("Add", erf, graph.constant(1.0)))
    return graph.op("Mul", product, graph.constant(0.5))
