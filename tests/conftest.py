"""Fixtures of all tests: those marked `anyio` run on asyncio. A module may put its own in the place of any of them."""

import gc
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hub_server import Site, running
from hypothesis import HealthCheck, settings
from server import Client, RunningServer, fill_cache

# A busy machine is no fault of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


SHORT = {"messages", "models", "settings", "sources", "store"}
"""Folders whose tests start no server."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long go first, so that no worker is left alone with one."""
    items.sort(key=lambda item: item.path.relative_to(Path(__file__).parent).parts[0] in SHORT)


def pytest_collection_finish() -> None:
    """Leave what collecting made out of garbage collections: with 8,000 tests in memory each takes half a second, and
    the server collects whenever a model was loaded or dropped."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def untraced() -> Iterator[None]:
    """Measures no coverage, which takes a sweep over millions of characters five times as long."""
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)


@pytest.fixture
def site() -> Iterator[Site]:
    """A site of this machine: whatever a test makes of it, for ours to fetch from."""
    with running() as site:
        yield site
    if "huggingface_hub" in sys.modules:
        from huggingface_hub import close_session

        close_session()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server's models."""
    return fill_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def environ() -> Mapping[str, str]:
    """The server's settings."""
    return {}


@pytest.fixture(scope="module")
def server(cache: Path, environ: Mapping[str, str]) -> Iterator[RunningServer]:
    """A server for the tests of a module; at their end nothing was unforeseen, and it stops in order."""
    with RunningServer(cache, **environ) as running:
        yield running
        assert "Traceback" not in running.log
        assert running.stop() == 0


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with server.client() as connected:
        yield connected
