"""`celery -A tests.reliability.endless worker`: the product's worker, whose tokenizer some prompts hang."""

from __future__ import annotations

import time

from tasks.request import JobRequest
from worker import bootstep
from worker.app import app
from worker.engine.base import Prompt
from worker.engine.echo import EchoEngine

__all__ = ["app"]

MARKER = "endless"
"""Begins such a prompt."""


class EndlessEngine(EchoEngine):
    def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
        while (request.prompt or "").startswith(MARKER):
            time.sleep(0.1)
        return super().encode(request, now)


vars(bootstep)["load_engine"] = EndlessEngine
