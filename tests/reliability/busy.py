"""`celery -A tests.reliability.busy worker`: the product's worker on an engine whose steps take CPU time.

One that the process is stopped in goes on afterwards, as a real model's does; echo's would be over.
"""

from __future__ import annotations

import time

from worker import bootstep
from worker.app import app
from worker.engine.base import RequestOutput
from worker.engine.echo import EchoEngine

__all__ = ["app"]

STEP_CPU_SECONDS = 1.0
"""A lease: the worker looks at the step, and reports, some times before it is over."""


class BusyEngine(EchoEngine):
    def step(self) -> list[RequestOutput]:
        end = time.thread_time() + STEP_CPU_SECONDS
        while time.thread_time() < end:
            pass
        return super().step()


vars(bootstep)["load_engine"] = BusyEngine
