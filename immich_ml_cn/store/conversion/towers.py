"""The two towers of a Chinese-CLIP as ONNX graphs, with the inputs and outputs of Immich's exports."""

from typing import Final, Literal, TypeAlias

import numpy as np

from . import bert, resnet, vision_transformer
from .architecture import Architecture, ResNet
from .graph import GraphBuilder, Precision, Value
from .layers import Weights, linear

Kind: TypeAlias = Literal["visual", "textual"]

KINDS: Final[tuple[Kind, ...]] = ("visual", "textual")

_FLOAT32: Final = np.dtype(np.float32)


def build_tower(kind: Kind, architecture: Architecture, weights: Weights, precision: Precision) -> GraphBuilder:
    """The graph of one tower; its weights are read when it is written.

    ``image`` float32 [batch, 3, R, R], normalised, or ``text`` int32 [batch, sequence], 0 where padded →
    ``embedding``, of length 1, and ``features``, before that: float32 [batch, D].
    """
    graph = GraphBuilder(precision)
    build = _build_visual if kind == "visual" else _build_textual
    features = graph.op("Squeeze", build(graph, architecture, weights), graph.constant([1], np.int64))
    if graph.dtype != _FLOAT32:
        features = graph.cast(features, _FLOAT32)
    features = graph.op("Identity", features, output="features")
    length = graph.op("ReduceL2", features, axes=[1], keepdims=1)
    graph.op("Div", features, length, output="embedding")
    graph.outputs = [Value(name, _FLOAT32, ("batch", architecture.dimension)) for name in ("embedding", "features")]
    return graph


def _build_visual(graph: GraphBuilder, architecture: Architecture, weights: Weights) -> str:
    """[N, 1, D]."""
    vision, dimension = architecture.vision, architecture.dimension
    graph.inputs = [Value("image", _FLOAT32, ("batch", 3, vision.pixels, vision.pixels))]
    image = "image" if graph.dtype == _FLOAT32 else graph.cast("image", graph.dtype)
    if isinstance(vision, ResNet):
        row = resnet.encode_picture(graph, vision, weights, image)
        return linear(graph, weights, row, "visual.attnpool.c_proj", 32 * vision.width, dimension)
    row = vision_transformer.encode_picture(graph, vision, weights, image)
    return graph.linear(row, "visual.proj", (vision.width, dimension), lambda: weights.read("visual.proj"), None)


def _build_textual(graph: GraphBuilder, architecture: Architecture, weights: Weights) -> str:
    """[N, 1, D]."""
    width, dimension = architecture.text.width, architecture.dimension
    graph.inputs = [Value("text", np.dtype(np.int32), ("batch", "sequence"))]
    row = bert.encode_text(graph, architecture.text, weights, "text")
    return graph.linear(row, "text_projection", (width, dimension), lambda: weights.read("text_projection"), None)
