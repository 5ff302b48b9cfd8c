"""ONNX graphs: as they are handed to an engine, and every edit of one."""
