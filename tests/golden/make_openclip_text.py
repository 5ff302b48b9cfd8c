"""Write tests/golden/openclip_text: a small text tower of OpenCLIP, exported as Immich's models are.

    python with torch, torchvision, open_clip and onnxscript: tests/golden/make_openclip_text.py

``torchscript.onnx`` is of the exporter that Immich's published models come from, ``dynamo.onnx`` of the one after it;
both for one text of 77 tokens.
"""

from pathlib import Path
from typing import Any

import onnx
import open_clip
import torch

FOLDER = Path(__file__).parent / "openclip_text"
CONTEXT = 77
VOCABULARY = 64


class Encoder(torch.nn.Module):  # type: ignore[misc]
    """``CLIP.encode_text`` with its normalisation, of the text half alone."""

    def __init__(self) -> None:
        super().__init__()
        self.text = open_clip.transformer.TextTransformer(
            context_length=CONTEXT,
            vocab_size=VOCABULARY,
            width=24,
            heads=2,
            layers=2,
            output_dim=16,
            pool_type="argmax",
        )

    def forward(self, text: torch.Tensor) -> Any:
        return torch.nn.functional.normalize(self.text(text), dim=-1)


def main() -> None:
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)
    encoder = Encoder().eval()
    for parameter in encoder.parameters():
        parameter.requires_grad_(False).copy_(torch.randn_like(parameter) * 0.3)
    FOLDER.mkdir(exist_ok=True)
    for name, dynamo, opset in (("torchscript", False, 17), ("dynamo", True, 18)):
        torch.onnx.export(
            encoder,
            (torch.ones(1, CONTEXT, dtype=torch.int32),),
            FOLDER / f"{name}.onnx",
            input_names=["text"],
            output_names=["text_embedding"],
            opset_version=opset,
            dynamo=dynamo,
            external_data=False,
        )
        strip(FOLDER / f"{name}.onnx")


def strip(path: Path) -> None:
    """Take out what the exporter notes about itself: where each node was made, which is most of the file."""
    model = onnx.load(path)
    graph = model.graph
    for noted in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        noted.doc_string = ""
        del noted.metadata_props[:]
    del graph.value_info[:]
    onnx.save(model, path)


if __name__ == "__main__":
    main()
