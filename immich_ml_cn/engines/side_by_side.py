"""Several small runs at once on the CPU: each core takes one."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from .session import Session


class SideBySideSession:
    """`ParallelSession` on the CPU: the graph opened twice, for runs on all threads and for as many runs on one each.

    What a run gains from a second thread is less than what a second run gains: lines of text are recognised 1.3 to 1.4
    times as fast on two cores, and their orientation 3 times.
    """

    def __init__(self, whole: Session, single: Session, threads: int) -> None:
        """
        Args:
            whole: its runs take all threads.
            single: its runs take the calling thread only.
            threads: how many runs of `single` go side by side.
        """
        self._whole = whole
        self._single = single
        self.width = threads
        self.inputs, self.outputs, self.metadata = whole.inputs, whole.outputs, whole.metadata

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """See `Session.run`."""
        return self._whole.run(feeds)

    def run_single(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """See `ParallelSession.run_single`."""
        return self._single.run(feeds)

    def run_each(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[list[NDArray[Any]]]:
        """See `ParallelSession.run_each`; too few to give each thread one go one after the other on all of them."""
        if len(feeds) < self.width or self.width == 1:
            return [self._whole.run(feed) for feed in feeds]
        # The threads are started here, so that they have the priority of the lane.
        with ThreadPoolExecutor(self.width, thread_name_prefix="run") as threads:
            return list(threads.map(self._single.run, feeds))
