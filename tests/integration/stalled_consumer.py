"""A worker whose Celery stops consuming, as in celery issue 8030.

    celery -A tests.integration.stalled_consumer worker

Once the file STALL_WHEN exists, the consumer asks Redis for no more messages. Everything else keeps working.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kombu.transport.redis import Channel

from worker.app import app

__all__ = ["app"]

STALL_WHEN = Path(os.environ["STALL_WHEN"])

_ask = Channel._brpop_start  # type: ignore[attr-defined]


def _ask_unless_stalled(channel: Channel, *args: Any) -> None:
    if not STALL_WHEN.exists():
        _ask(channel, *args)


Channel._brpop_start = _ask_unless_stalled  # type: ignore[attr-defined]
