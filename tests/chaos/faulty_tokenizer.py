"""A worker whose tokenizer fails for some prompts: `celery -A tests.chaos.faulty_tokenizer worker`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tasks.request import JobRequest
from tests.chaos.markers import UNDECODABLE, UNENCODABLE
from worker import bootstep
from worker.app import app
from worker.engine.base import Prompt
from worker.engine.echo import EchoEngine

__all__ = ["app"]


class FaultyTokenizerEngine(EchoEngine):
    def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
        words = (request.prompt or "").split()
        if words[0] == UNENCODABLE:
            raise MemoryError
        prompt = super().encode(request, now)
        if UNDECODABLE not in words:
            return prompt

        def decode(token_ids: Sequence[int]) -> str:
            text = prompt.decode(token_ids)
            if UNDECODABLE in text:
                raise KeyError(UNDECODABLE)
            return text

        return replace(prompt, decode=decode)


vars(bootstep)["load_engine"] = FaultyTokenizerEngine
