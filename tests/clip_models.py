"""Small CLIP towers with random weights and the signatures of the exports in the field."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WIDTH = 24
DIMENSION = 32
_ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


@dataclass
class Graph:
    """A growing ONNX graph: `op` adds a node and answers the name of its output."""

    seed: int = 0
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        output = name or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        scale = 1 / np.sqrt(shape[0] if len(shape) == 2 else np.prod(shape[1:]))
        return self.constant(self._random.normal(0, scale, shape))

    def table(self, rows: int, columns: int) -> str:
        return self.constant(self._random.normal(0, 1, (rows, columns)))

    def block(self, x: str, bias: str | None = None) -> str:
        """A transformer block of one head on (N, L, W); `bias` is added to the attention's scores."""
        query, key, value = (self.op("MatMul", x, self.weight(WIDTH, WIDTH)) for _ in range(3))
        scores = self.op("MatMul", query, self.op("Transpose", key, perm=[0, 2, 1]))
        scores = self.op("Mul", scores, self.constant(WIDTH**-0.5))
        if bias is not None:
            scores = self.op("Add", scores, bias)
        attention = self.op("MatMul", self.op("Softmax", scores, axis=-1), value)
        x = self.op("Add", x, attention)
        hidden = self.op("Relu", self.op("MatMul", x, self.weight(WIDTH, 2 * WIDTH)))
        x = self.op("Add", x, self.op("MatMul", hidden, self.weight(2 * WIDTH, WIDTH)))
        ones, zeros = self.constant(np.ones(WIDTH)), self.constant(np.zeros(WIDTH))
        return self.op("LayerNormalization", x, ones, zeros, axis=-1)

    def finish(self, pooled: str, outputs: tuple[str, ...]) -> list[str]:
        """Project (N, W) and name the result: ``embedding`` is normalised, every other name is not."""
        raw = self.op("MatMul", pooled, self.weight(WIDTH, DIMENSION))
        raw = self.op("Mul", raw, self.constant(7.5))
        for name in outputs:
            if name == "embedding":
                length = self.op("Sqrt", self.op("ReduceSum", self.op("Mul", raw, raw), self.constant([1], np.int64)))
                self.op("Div", raw, length, name=name)
            else:
                self.op("Identity", raw, name=name)
        return list(outputs)

    def save(self, path: Path, inputs: list[Any], outputs: list[str], batch: int | str, opset: int = 17) -> Path:
        infos = [helper.make_tensor_value_info(o, TensorProto.FLOAT, [batch, DIMENSION]) for o in outputs]
        graph = helper.make_graph(self.nodes, "tower", inputs, infos, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, str(path))
        return path


def _input(name: str, dtype: str, *shape: int | str) -> Any:
    return helper.make_tensor_value_info(name, _ELEMENTS[dtype], shape)


def save_visual(
    path: Path,
    *,
    size: int = 32,
    batch: int | str = "batch",
    dtype: str = "float32",
    outputs: tuple[str, ...] = ("embedding",),
) -> Path:
    """A ViT of one block and 8-pixel patches: ``image`` [batch, 3, size, size] → `outputs`."""
    graph = Graph(seed=1)
    image = graph.op("Cast", "image", to=TensorProto.FLOAT)
    patches = graph.op("Conv", image, graph.weight(WIDTH, 3, 8, 8), strides=[8, 8])
    patches = graph.op("Reshape", patches, graph.constant([0, WIDTH, -1], np.int64))
    x = graph.op("Transpose", patches, perm=[0, 2, 1])
    x = graph.block(graph.op("Add", x, graph.table((size // 8) ** 2, WIDTH)))
    pooled = graph.op("ReduceMean", x, axes=[1], keepdims=0)
    names = graph.finish(pooled, outputs)
    return graph.save(path, [_input("image", dtype, batch, 3, size, size)], names, batch)


def save_openclip_text(
    path: Path,
    *,
    vocabulary: int,
    context: int = 77,
    batch: int | str = "batch",
    outputs: tuple[str, ...] = ("embedding",),
    length: int | str | None = None,
) -> Path:
    """OpenCLIP's text tower: ``text`` int32 [batch, context], causal, pooled at the largest id."""
    graph = Graph(seed=2)
    x = graph.op("Gather", graph.table(vocabulary, WIDTH), "text")
    x = graph.op("Add", x, graph.table(context, WIDTH))
    causal = np.triu(np.full((1, context, context), -10000, np.float32), 1)
    x = graph.block(x, graph.constant(causal))
    last = graph.op("ArgMax", "text", axis=1, keepdims=1)  # (N, 1): the first of the largest
    index = graph.op("Unsqueeze", last, graph.constant([2], np.int64))
    index = graph.op("Expand", index, graph.constant([1, 1, WIDTH], np.int64))
    pooled = graph.op("Squeeze", graph.op("GatherElements", x, index, axis=1), graph.constant([1], np.int64))
    names = graph.finish(pooled, outputs)
    return graph.save(path, [_input("text", "int32", batch, length or context)], names, batch)


def save_fused_openclip_text(path: Path, *, vocabulary: int, context: int = 77, batch: int | str = "batch") -> Path:
    """OpenCLIP's text tower as Immich's exporter writes it of late: ``text`` int32 [batch, context], attention as one
    causal operator, the hidden state at the largest id taken by a product with a row of the identity."""
    graph = Graph(seed=5)
    x = graph.op("Gather", graph.table(vocabulary, WIDTH), "text")
    x = graph.op("Add", x, graph.table(context, WIDTH))
    query, key, value = (graph.op("MatMul", x, graph.weight(WIDTH, WIDTH)) for _ in range(3))
    attention = graph.op("Attention", query, key, value, is_causal=1, q_num_heads=2, kv_num_heads=2)
    last = graph.op("ArgMax", "text", axis=-1, keepdims=0)
    row = graph.op("Gather", graph.constant(np.eye(context)), last, axis=0)
    row = graph.op("Unsqueeze", row, graph.constant([1], np.int64))
    pooled = graph.op("Add", graph.op("MatMul", row, x), graph.op("MatMul", row, attention))
    names = graph.finish(graph.op("Squeeze", pooled, graph.constant([1], np.int64)), ("embedding",))
    return graph.save(path, [_input("text", "int32", batch, context)], names, batch, opset=23)


def save_chinese_text(
    path: Path,
    *,
    batch: int | str = "batch",
    length: int | str = "length",
    dtype: str = "int32",
    outputs: tuple[str, ...] = ("embedding", "features"),
) -> Path:
    """Chinese-CLIP's text tower: ``text`` [batch, length], attends to ``text != 0``, row 0 projected."""
    graph = Graph(seed=3)
    ids = graph.op("Cast", "text", to=TensorProto.INT64)
    mask = graph.op("Cast", graph.op("Equal", ids, graph.constant(0, np.int64)), to=TensorProto.FLOAT)
    x = graph.block(_embed(graph, ids, 21128, 52), _bias(graph, mask))
    pooled = graph.op("Gather", x, graph.constant(0, np.int64), axis=1)
    names = graph.finish(pooled, outputs)
    return graph.save(path, [_input("text", dtype, batch, length)], names, batch)


def save_masked_text(
    path: Path, *, vocabulary: int, context: int = 77, length: int | str = "length", batch: int | str = "batch"
) -> Path:
    """M-CLIP's text tower: ``input_ids`` and ``attention_mask`` int32 [batch, length], mean of the unmasked."""
    graph = Graph(seed=4)
    attention = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    ids = graph.op("Cast", "input_ids", to=TensorProto.INT64)
    ignored = graph.op("Sub", graph.constant(1), attention)
    x = graph.block(_embed(graph, ids, vocabulary, context), _bias(graph, ignored))
    weights = graph.op("Unsqueeze", attention, graph.constant([2], np.int64))
    total = graph.op("ReduceSum", graph.op("Mul", x, weights), graph.constant([1], np.int64), keepdims=0)
    count = graph.op("ReduceSum", attention, graph.constant([1], np.int64), keepdims=1)
    names = graph.finish(graph.op("Div", total, count), ("embedding",))
    inputs = [_input(name, "int32", batch, length) for name in ("input_ids", "attention_mask")]
    return graph.save(path, inputs, names, batch)


def _embed(graph: Graph, ids: str, vocabulary: int, context: int) -> str:
    """Word and position embeddings of ids (N, L), the positions cut to L: (N, L, W)."""
    shape = graph.op("Shape", ids)
    length = graph.op("Gather", shape, graph.constant([1], np.int64))
    zero = graph.constant([0], np.int64)
    positions = graph.op("Slice", graph.table(context, WIDTH), zero, length, zero)
    return graph.op("Add", graph.op("Gather", graph.table(vocabulary, WIDTH), ids), positions)


def _bias(graph: Graph, ignored: str) -> str:
    """0 / 1 (N, L) → 0 / -10000 (N, 1, L)."""
    bias = graph.op("Mul", ignored, graph.constant(-10000))
    return graph.op("Unsqueeze", bias, graph.constant([1], np.int64))


def save_tokenizer(
    folder: Path, *, pad_token: Any = "<pad>", languages: tuple[str, ...] = (), length: int = 77, **text_cfg: Any
) -> int:
    """Write Immich's ``config.json`` and ``textual/`` tokenizer files: a byte-level BPE. Answers its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", *languages]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a photo of a cat on the sofa", "the beach at sunset"], trainer)
    first = "eng_Latn" if languages else "<s>"
    tokens = [(name, tokenizer.token_to_id(name)) for name in (first, "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A </s>", special_tokens=tokens)
    textual = folder / "textual"
    textual.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(textual / "tokenizer.json"))
    (textual / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad_token}))
    config = {"text_cfg": {"context_length": length, **text_cfg}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    size: int = tokenizer.get_vocab_size()
    return size


def save_preprocessing(folder: Path, **config: Any) -> None:
    """Write Immich's ``visual/preprocess_cfg.json``."""
    visual = folder / "visual"
    visual.mkdir(parents=True, exist_ok=True)
    (visual / "preprocess_cfg.json").write_text(json.dumps(config), encoding="utf-8")


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The cosine of the angle between two vectors, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
