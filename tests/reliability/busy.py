"""A worker with an engine whose steps take CPU time: `celery -A tests.reliability.busy worker`.

If the process is paused during a step, the step continues afterwards, as a real model's step does. A step of
the echo engine would be over, because it sleeps.
"""

from __future__ import annotations

import time

from worker import bootstep
from worker.app import app
from worker.engine.base import RequestOutput
from worker.engine.echo import EchoEngine

__all__ = ["app"]

STEP_CPU_SECONDS = 1.0
"""As long as a lease, so that the worker's watchdog looks at the step several times before it ends."""


class BusyEngine(EchoEngine):
    def step(self) -> list[RequestOutput]:
        end = time.thread_time() + STEP_CPU_SECONDS
        while time.thread_time() < end:
            pass
        return super().step()


vars(bootstep)["load_engine"] = BusyEngine
