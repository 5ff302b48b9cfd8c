"""CLIP's ViT as an ONNX graph."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .architecture import VisionTransformer
from .graph import GraphBuilder, Value
from .layers import Weights, attention, class_row, layer_norm, linear, quick_gelu


def encode_picture(graph: GraphBuilder, vision: VisionTransformer, weights: Weights, image: str) -> str:
    """Normalised pixels [N, 3, R, R] → what the projection takes, [N, 1, W]: the class token's row."""
    tokens = _embed(graph, vision, weights, image)
    for layer in range(vision.layers):
        tokens = _block(graph, vision, weights, layer, tokens)
        if layer + 1 == vision.layers // 2:
            graph.middle = Value(tokens, graph.dtype, ("batch", vision.tokens, vision.width))
    return layer_norm(graph, weights, tokens, "visual.ln_post", vision.width, epsilon=1e-5)


def _embed(graph: GraphBuilder, vision: VisionTransformer, weights: Weights, image: str) -> str:
    """The class token and the patches, with their positions: [N, L, W]."""
    kernel = (vision.width, 3, vision.patch, vision.patch)
    weight = graph.weight("visual.conv1.weight", kernel, lambda: weights.read("visual.conv1.weight"))
    side = [vision.patch, vision.patch]
    patches = graph.op("Conv", image, weight, kernel_shape=side, strides=side)  # (N, W, R/P, R/P)
    patches = graph.op("Reshape", patches, graph.constant([0, vision.width, -1], np.int64))
    patches = graph.op("Transpose", patches, perm=[0, 2, 1])  # (N, L - 1, W)
    class_token = graph.weight(
        "visual.class_embedding", (1, 1, vision.width), lambda: weights.read("visual.class_embedding")[None, None]
    )
    batch = graph.op("Slice", graph.op("Shape", image), *(graph.constant([n], np.int64) for n in (0, 1)))
    ones = graph.constant([1, 1], np.int64)
    class_tokens = graph.op("Expand", class_token, graph.op("Concat", batch, ones, axis=0))
    tokens = graph.op("Concat", class_tokens, patches, axis=1)
    positions = graph.weight(
        "visual.positional_embedding",
        (vision.tokens, vision.width),
        lambda: weights.read("visual.positional_embedding"),
    )
    return layer_norm(graph, weights, graph.op("Add", tokens, positions), "visual.ln_pre", vision.width, epsilon=1e-5)


def _block(graph: GraphBuilder, vision: VisionTransformer, weights: Weights, layer: int, tokens: str) -> str:
    """One residual attention block: [N, L, W] → [N, L, W]; of the last one only the class token's row is needed."""
    name = f"visual.transformer.resblocks.{layer}"
    normed = layer_norm(graph, weights, tokens, f"{name}.ln_1", vision.width, epsilon=1e-5)
    query = normed
    if layer == vision.layers - 1:
        query, tokens = class_row(graph, normed), class_row(graph, tokens)

    def part(index: int, kind: str) -> NDArray[Any]:
        return np.split(weights.read(f"{name}.attn.in_proj_{kind}"), 3)[index]

    attended = attention(graph, query, normed, f"{name}.attn", vision.width, vision.heads, part)
    projected = linear(graph, weights, attended, f"{name}.attn.out_proj", vision.width, vision.width)
    tokens = graph.op("Add", tokens, projected)
    hidden = layer_norm(graph, weights, tokens, f"{name}.ln_2", vision.width, epsilon=1e-5)
    hidden = linear(graph, weights, hidden, f"{name}.mlp.c_fc", vision.width, 4 * vision.width)
    hidden = linear(graph, weights, quick_gelu(graph, hidden), f"{name}.mlp.c_proj", 4 * vision.width, vision.width)
    return graph.op("Add", tokens, hidden)
