"""`celery -A tests.chaos.fragile worker`: the product's worker, whose tokenizer some prompts break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tasks.request import JobRequest
from tests.chaos.words import UNDECODABLE, UNENCODABLE
from worker import bootstep
from worker.app import app
from worker.engine.base import Prompt
from worker.engine.echo import EchoEngine

__all__ = ["app"]


class FragileEngine(EchoEngine):
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


vars(bootstep)["load_engine"] = FragileEngine
