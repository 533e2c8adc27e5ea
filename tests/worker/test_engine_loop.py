"""The engine thread, with an engine that has no memory for some requests."""

from __future__ import annotations

import queue

from tasks.job import FinishReason
from tasks.settings import EngineKind, Settings
from worker.engine.base import EngineRequest, RequestOutput, SamplingParams
from worker.engine.echo import EchoEngine
from worker.engine_loop import MAX_UNFLUSHED_STEPS, EngineLoop

SECONDS = 10


class FullEngine(EchoEngine):
    """Has no memory to add a request of two tokens."""

    def add_request(self, request: EngineRequest) -> None:
        if len(request.prompt_ids) == 2:
            raise MemoryError
        super().add_request(request)


def request(name: str, tokens: int) -> EngineRequest:
    return EngineRequest(name, tuple(range(tokens)), (), SamplingParams(max_tokens=3))


def test_a_request_without_memory_fails_alone() -> None:
    steps: queue.SimpleQueue[list[RequestOutput]] = queue.SimpleQueue()
    settings = Settings(engine=EngineKind.ECHO, max_num_seqs=4, echo_step_seconds=0)
    loop = EngineLoop(FullEngine(settings), steps.put)
    loop.add_request(request("healthy", 1))
    for index in range(2 * MAX_UNFLUSHED_STEPS):
        loop.add_request(request(f"full-{index}", 2))
    loop.start()
    finished: dict[str, RequestOutput] = {}
    while len(finished) < 2 * MAX_UNFLUSHED_STEPS + 1:
        for output in steps.get(timeout=SECONDS):
            if output.finish_reason is not None:
                finished[output.request_id] = output
        loop.step_flushed()
    assert loop.stop(SECONDS)
    assert finished.pop("healthy").finish_reason is FinishReason.LENGTH
    assert {(one.finish_reason, one.error) for one in finished.values()} == {
        (FinishReason.ERROR, "memory did not suffice to add this sequence")
    }
