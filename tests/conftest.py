"""Fixtures of all tests: those marked `anyio` run on asyncio."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
