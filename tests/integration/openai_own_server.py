"""A web server with settings of its own, alone on its Redis: no other process moves its batches on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS
from tasks.settings import Settings
from tests.integration.openai_harness import Calls
from tests.integration.web_harness import Player, Server, serving


@dataclass(frozen=True, slots=True)
class OwnServer:
    server: Server
    sdk: OpenAI
    calls: Calls
    redis: Redis


@contextmanager
def own_server(redis_url: str, folder: Path, **environment: str) -> Iterator[OwnServer]:
    """Runs a server and a played worker with four slots. environment: variables of the server."""
    settings = Settings(redis_url=redis_url, model_id="m", max_num_seqs=4)
    with (
        Redis.from_url(redis_url, decode_responses=True) as redis,
        serving(redis_url, folder, **environment) as server,
        Player(redis, settings) as player,
        OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=TIMEOUT_SECONDS) as sdk,
    ):
        calls = Calls(sdk, player, redis)
        yield OwnServer(server, sdk, calls, redis)
        calls.close()
