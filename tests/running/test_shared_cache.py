"""Replicas that share one model cache: one fetches, the others wait for it; a dead one holds nobody up."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hub_server import Page, Site
from server import CLIP, ROOT, VISUAL, Reply, RunningServer, fill_cache, wait_until

PHOTO = (ROOT / "docs" / "sample.jpg").read_bytes()
WAITING = "is being fetched already"


@pytest.fixture
def graph(site: Site, tmp_path: Path) -> Page:
    """A small CLIP model on a hub, whose image half arrives slowly."""
    model = fill_cache(tmp_path / "offered") / "clip" / CLIP
    pages = {str(path.relative_to(model)): Page(path.read_bytes()) for path in model.rglob("*") if path.is_file()}
    page = pages["visual/model.onnx"]
    page.trickle = (len(page.data) // 20 + 1, 0.1)
    site.hub(f"immich-app/{CLIP}", pages)
    return page


@pytest.fixture
def replicas(site: Site, tmp_path: Path) -> Iterator[list[RunningServer]]:
    cache = tmp_path / "cache"
    cache.mkdir()
    with ExitStack() as stack:
        yield [stack.enter_context(replica(site, tmp_path / name, cache)) for name in ("a", "b", "c")]


def replica(site: Site, folder: Path, cache: Path) -> RunningServer:
    return RunningServer(
        folder,
        MACHINE_LEARNING_CACHE_FOLDER=str(cache),
        MACHINE_LEARNING_MODEL_SOURCE="huggingface",
        HF_ENDPOINT=site.base,
        HF_HUB_OFFLINE="0",
        NO_PROXY="*",
    )


class Asking:
    """Requests for the photo's embedding, one to each server, at the same time; a server that dies gives no reply."""

    def __init__(self, servers: list[RunningServer]) -> None:
        self.replies: dict[int, Reply] = {}
        self._threads = [threading.Thread(target=self._ask, args=(server,)) for server in servers]
        for thread in self._threads:
            thread.start()

    def _ask(self, server: RunningServer) -> None:
        with server.client() as client, suppress(OSError, http.client.HTTPException):
            self.replies[server.port] = client.predict(VISUAL, PHOTO)

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()


def test_a_model_is_fetched_once_for_all(graph: Page, site: Site, replicas: list[RunningServer]) -> None:
    asking = Asking(replicas)
    asking.wait()
    assert [reply.status for reply in asking.replies.values()] == [200, 200, 200]
    assert len({reply.body for reply in asking.replies.values()}) == 1
    assert site.downloads(graph) == [None]
    assert sum(WAITING in server.log for server in replicas) == 2


def test_the_next_one_goes_on_where_a_killed_one_stopped(
    graph: Page, site: Site, replicas: list[RunningServer]
) -> None:
    first, *others = replicas
    lost = Asking([first])
    wait_until(lambda: site.downloads(graph) == [None])
    asking = Asking(others)
    for server in others:
        server.wait_for_log(WAITING)
    first.process.kill()
    lost.wait()
    asking.wait()
    assert [reply.status for reply in asking.replies.values()] == [200, 200]
    begun, resumed = site.downloads(graph)
    assert begun is None
    assert resumed is not None
    assert resumed > 0
