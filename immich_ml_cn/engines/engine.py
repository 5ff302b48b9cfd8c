"""The interface of an engine, and its errors."""

from typing import Protocol

from .graphs.files import Graph
from .session import LaneKind, Session


class EngineError(RuntimeError):
    """No engine satisfies the settings; the message says what to do."""


class LoadError(RuntimeError):
    """A graph could not be loaded; the message names the file and the reason."""


class Engine(Protocol):
    """Opens sessions on one kind of device."""

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider, or ``OpenVINO``."""
        ...

    @property
    def on_gpu(self) -> bool: ...

    @property
    def description(self) -> str:
        """Device and versions for people, e.g. ``CPU, 8 threads (ONNX Runtime 1.32.0)``."""
        ...

    def import_library(self) -> None:
        """Import the library that runs the models, which `open` does otherwise.

        Raises:
            ImportError: it is not installed, or broken.
        """
        ...

    def release_memory(self) -> None:
        """Return to the system what runs and closed sessions have left; takes milliseconds and more."""
        ...

    def open(
        self, graph: Graph, kind: LaneKind, device_id: int, *, parallel: bool = False, pinned: bool = False
    ) -> Session:
        """Load a graph for a lane; called on that lane's loader thread.

        Args:
            parallel: its inputs are many and small: open a `ParallelSession` where the device gains from one.

            pinned: it stays loaded, so that what would be prepared for its next load is prepared for this one.

        Raises:
            LoadError: the graph cannot run here.
            Exception: what an edited graph's `make` raises.
            DamagedModel: the file is no whole graph.
        """
        ...
