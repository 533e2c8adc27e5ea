"""`celery -A tests.reliability.deadly worker`: the product's worker, whose engine some prompts kill."""

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

MARKER = "deadly"
"""Begins a prompt whose first step takes the process down, as a fault in a kernel would."""

DEADLY_IDS = (-1,)


class DeadlyEngine(EchoEngine):
    _is_doomed = False

    def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
        prompt = super().encode(request, now)
        is_deadly = (request.prompt or "").startswith(MARKER)
        return replace(prompt, token_ids=DEADLY_IDS) if is_deadly else prompt

    def add_request(self, request: EngineRequest) -> None:
        super().add_request(request)
        self._is_doomed |= request.prompt_ids == DEADLY_IDS

    def step(self) -> list[RequestOutput]:
        if self._is_doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step()


vars(bootstep)["load_engine"] = DeadlyEngine
