"""The worker container's health check: has its worker a fresh heartbeat in Redis?

Dispatch and `/health` check the same. A worker has no heartbeat until its model is loaded, and loses it one
lease after it hung or lost Redis.
"""

from __future__ import annotations

import socket
import sys

from tasks import get_store

WORKER = f"worker@{socket.gethostname()}"
"""As `celery worker -n worker@%h` names itself."""

if WORKER not in {worker["id"] for worker in get_store().workers()}:
    sys.exit(f"{WORKER} sent no heartbeat lately")
