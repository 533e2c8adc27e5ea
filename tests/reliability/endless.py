"""A worker whose tokenizer hangs on some prompts: `celery -A tests.reliability.endless worker`."""

from __future__ import annotations

import time

from tasks.request import JobRequest
from worker import bootstep
from worker.app import app
from worker.engine.base import Prompt
from worker.engine.echo import EchoEngine

__all__ = ["app"]

MARKER = "endless"
"""A prompt that begins with it never gets tokenized."""


class EndlessEngine(EchoEngine):
    def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
        while (request.prompt or "").startswith(MARKER):
            time.sleep(0.1)
        return super().encode(request, now)


vars(bootstep)["load_engine"] = EndlessEngine
