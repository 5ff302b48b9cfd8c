"""Compiled models of OpenVINO as sessions."""

from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .parallel import CpuParallelSession, RunThreads
from .session import TensorInfo

Feeds: TypeAlias = Mapping[str, NDArray[Any]]

MAX_BATCHED_SIZE: Final = 1 << 15
"""Elements of an input up to which inputs of one shape run as a batch: the line classifier's crops, and lines up to
224 px. Longer lines gain nothing, and leave a thread waiting at the end."""

MAX_BATCH: Final = 8


class OpenVinoSession:
    """`Session` on OpenVINO."""

    def __init__(
        self, compiled: Any, metadata: Mapping[str, str], requests: int = 1, *, keep_memory: bool = True
    ) -> None:
        """
        Args:
            metadata: of the graph; OpenVINO does not keep it.
            requests: how many threads may call `run` at once.
            keep_memory: from one run to the next, for what is computed on the way; several at once keep theirs until
                `release`.
        """
        self._compiled = compiled
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(requests):
            self._requests.put(compiled.create_infer_request())
        self._exclusive = requests == 1
        self._keep_memory = keep_memory
        self.inputs = tuple(_tensor_info(port) for port in compiled.inputs)
        self.outputs = tuple(_tensor_info(port) for port in compiled.outputs)
        self.metadata = metadata
        self._dtypes = {info.name: np.dtype(info.dtype) for info in self.inputs}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """See `Session.run`.

        Raises:
            ValueError: the inputs are not those of the graph; OpenVINO would compute with an empty or an older one.
            RuntimeError: OpenVINO failed.
        """
        given = {name: array.dtype for name, array in feeds.items()}
        if given != self._dtypes:
            raise ValueError(f"the graph takes {self._dtypes}, not {given}")
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        request = self._requests.get()
        try:
            results = request.infer(arrays, share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise RuntimeError(f"OpenVINO failed: {reason_of(error)}") from error
        finally:
            self._requests.put(request)
        outputs: list[NDArray[Any]] = [results[index] for index in range(len(self.outputs))]
        if self._exclusive:
            self.release()
        return outputs

    def release(self) -> None:
        """Give back what is not to be kept; nothing may be running."""
        if not self._keep_memory:
            self._compiled.release_memory()


class OpenVinoParallelSession(CpuParallelSession):
    """`ParallelSession` on the CPU: as many runs at once as there are threads, in streams of one compiled model, which
    share its weights. Small inputs of one shape are run as a batch, where the graph has a dynamic batch axis."""

    def __init__(
        self, latency: OpenVinoSession, streams: OpenVinoSession, parallelism: int, run_threads: RunThreads
    ) -> None:
        """
        Args:
            latency: one run at a time, on all threads.
            streams: `parallelism` runs at a time, on one thread each.
            run_threads: where they wait.
        """
        super().__init__(latency, streams, parallelism, run_threads)
        self._streams = streams
        self._takes_batches = all(info.shape[:1] == (None,) for info in (*streams.inputs, *streams.outputs))

    def run_parallel(self, feeds: Sequence[Feeds]) -> list[list[NDArray[Any]]]:
        """See `ParallelSession.run_parallel`; each of `feeds` is a batch of one where the graph takes any number.

        Raises:
            ValueError, RuntimeError: as `OpenVinoSession.run`, for one of them; the others ran or never will.
        """
        batches = _batches(feeds) if self._takes_batches else [[feed] for feed in feeds]
        try:
            outputs = super().run_parallel([_joined(batch) for batch in batches])
        finally:
            self._streams.release()
        if len(batches) == len(feeds):
            return outputs
        counts = [len(batch) for batch in batches]
        return [
            [output[index : index + 1] for output in of_batch]
            for of_batch, count in zip(outputs, counts, strict=True)
            for index in range(count)
        ]


def _batches(feeds: Sequence[Feeds]) -> list[list[Feeds]]:
    """Group neighbours of equal names, types and shapes, up to `MAX_BATCH` of at most `MAX_BATCHED_SIZE` elements."""
    batches: list[list[Feeds]] = []
    for feed in feeds:
        small = all(array.size <= MAX_BATCHED_SIZE for array in feed.values())
        if small and batches and len(batches[-1]) < MAX_BATCH and _form(batches[-1][0]) == _form(feed):
            batches[-1].append(feed)
        else:
            batches.append([feed])
    return batches


def _form(feed: Feeds) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    return {name: (array.dtype, array.shape) for name, array in feed.items()}


def _joined(batch: Sequence[Feeds]) -> Feeds:
    if len(batch) == 1:
        return batch[0]
    return {name: np.concatenate([feed[name] for feed in batch]) for name in batch[0]}


def _tensor_info(port: Any) -> TensorInfo:
    shape = tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape)
    return TensorInfo(_name(port), np.dtype(port.element_type.to_dtype()).name, shape)


def _name(port: Any) -> str:
    """The name in the ONNX graph: a tensor that others were merged into has their names too."""
    names: set[str] = port.get_names()
    own: str = port.get_node().get_friendly_name().removesuffix("/sink_port_0")
    return own if own in names or not names else min(names)


def reason_of(error: Exception) -> str:
    """OpenVINO's message without its own source lines."""
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return "; ".join(reasons) or str(error)
