"""A worker whose Celery goes deaf as in celery issue 8030: `celery -A tests.integration.deaf_worker worker`.

Once the file DEAF_WHEN exists, the consumer asks Redis for no more messages. All else works on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kombu.transport.redis import Channel

from worker.app import app

__all__ = ["app"]

DEAF_WHEN = Path(os.environ["DEAF_WHEN"])

_ask = Channel._brpop_start  # type: ignore[attr-defined]


def _ask_unless_deaf(channel: Channel, *args: Any) -> None:
    if not DEAF_WHEN.exists():
        _ask(channel, *args)


Channel._brpop_start = _ask_unless_deaf  # type: ignore[attr-defined]
