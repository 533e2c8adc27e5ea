"""A worker whose engine crashes on some prompts: `celery -A tests.reliability.crashing worker`."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

from tasks.request import JobRequest
from worker import bootstep
from worker.app import app
from worker.engine.base import EngineRequest, Prompt, RequestOutput
from worker.engine.echo import EchoEngine

__all__ = ["app"]

MARKER = "crash"
"""A prompt that begins with it kills the process in its first step, as a fault in a kernel would."""

CRASHING_IDS = (-1,)


class CrashingEngine(EchoEngine):
    _crashes = False

    def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
        prompt = super().encode(request, now)
        is_crashing = (request.prompt or "").startswith(MARKER)
        return replace(prompt, token_ids=CRASHING_IDS) if is_crashing else prompt

    def add_request(self, request: EngineRequest) -> None:
        super().add_request(request)
        self._crashes |= request.prompt_ids == CRASHING_IDS

    def step(self) -> list[RequestOutput]:
        if self._crashes:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step()


vars(bootstep)["load_engine"] = CrashingEngine
