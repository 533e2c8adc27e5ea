"""A worker whose threads stop on some prompts: `celery -A tests.reliability.stuck worker`.

Such a prompt begins with two words: `engine` or `flusher`, then `hangs` or `exits`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

from tasks.request import JobRequest
from worker import bootstep, flusher
from worker.app import app
from worker.engine.base import EngineRequest, Prompt
from worker.engine.echo import EchoEngine

__all__ = ["app"]

STUCK_IDS = {"hangs": (-1,), "exits": (-2,)}


def stop(how: str) -> None:
    if how == "exits":
        sys.exit("a library's way to end a process")
    threading.Event().wait()


class StuckEngine(EchoEngine):
    def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
        prompt = super().encode(request, now)
        where, how, *_ = [*(request.prompt or "").split(), "", ""]

        def decode(token_ids: Sequence[int]) -> str:
            if threading.current_thread().name == where:
                stop(how)
            return prompt.decode(token_ids)

        if where == "flusher":
            return replace(prompt, decode=decode)
        return replace(prompt, token_ids=STUCK_IDS[how]) if where == "engine" else prompt

    def add_request(self, request: EngineRequest) -> None:
        """Stops here, not in a step, because any call of the engine may hang."""
        for how, token_ids in STUCK_IDS.items():
            if request.prompt_ids == token_ids:
                stop(how)
        super().add_request(request)


vars(bootstep)["load_engine"] = StuckEngine
# There is no Redis that makes it wait.
vars(flusher)["LONGEST_CALL_SECONDS"] = 0.0
