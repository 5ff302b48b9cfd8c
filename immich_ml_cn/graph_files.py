"""How large a graph is."""

from pathlib import Path


def graph_bytes(graph: Path | bytes) -> int:
    """Bytes of a graph, with the weights beside its file that bear its name.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(graph, bytes):
        return len(graph)
    beside = (file.stat().st_size for file in graph.parent.glob(f"{graph.name}?*") if file.is_file())
    return graph.stat().st_size + sum(beside)
