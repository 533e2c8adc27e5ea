"""Scripts that run in the containers of docker-compose.yml."""

from __future__ import annotations

import socket

import pytest
from redis import Redis

from tasks.leases import Leases, WorkerInfo
from tasks.scripts import Scripts
from tasks.settings import Settings
from tests.unit.test_compose import CHECKOUT, run_script


@pytest.mark.parametrize(
    ("name", "returncode"), [(socket.gethostname(), 0), ("another", 1)], ids=["own", "other"]
)
def test_the_workers_health_check_needs_its_own_heartbeat(
    redis: Redis, redis_url: str, settings: Settings, name: str, returncode: int
) -> None:
    assert '"-n", "worker@%h"' in (CHECKOUT / "worker" / "Dockerfile").read_text()
    patient = settings.model_copy(update={"lease_seconds": 600})
    leases = Leases(Scripts(redis, patient, send_offers=lambda _offers: None))
    leases.heartbeat(WorkerInfo(f"worker@{name}", "m", "echo", 1, 0, 0.0))
    done = run_script("worker_alive.py", REDIS_URL=redis_url)
    assert (done.returncode, "no heartbeat" in done.stderr) == (returncode, returncode == 1)
