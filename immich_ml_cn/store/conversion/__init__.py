"""Official PyTorch checkpoints of Chinese-CLIP → ONNX graphs in Immich's layout, without PyTorch.

In the order of the data: `torch_file` and `safetensors_file` read tensors, `model_weights` checks them against the
`architecture`, `towers` build a `graph` of them, `onnx_file` writes it, `convert` puts it in its place, and `process`
does all that outside of the server's process.
"""
