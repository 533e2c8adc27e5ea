"""Fixtures of the tests with OpenAI's SDK: `pytest_plugins = ["tests.integration.openai_fixtures"]`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS
from tests.integration.openai_harness import Calls
from tests.integration.web_harness import Player, Server


@pytest.fixture
def sdk(server: Server) -> Iterator[OpenAI]:
    """A client that never repeats a call by itself, so that each error is seen."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=TIMEOUT_SECONDS) as opened:
        yield opened


@pytest.fixture
def sdk_calls(sdk: OpenAI, player: Player, web_redis: Redis) -> Iterator[Calls]:
    calls = Calls(sdk, player, web_redis)
    yield calls
    calls.close()
