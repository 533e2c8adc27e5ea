"""The harness of one test."""

from __future__ import annotations

import pytest
from redis import Redis

from tasks.settings import Settings
from tests.transitions.harness import Harness


@pytest.fixture
def harness(redis: Redis, settings: Settings) -> Harness:
    return Harness(redis, settings)
