"""Runs what the scheduler has in its rows, and tells it where memory does not suffice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from worker.engine.base import RequestOutput
from worker.engine.forward import Answer, Chunk, Forward
from worker.engine.memory import memory_errors
from worker.engine.pace import Pace
from worker.engine.transformers.next_tokens import OUT_OF_MEMORY
from worker.engine.transformers.scheduler import Scheduler
from worker.engine.transformers.sequence import SequenceState

PREFILL_TOKENS = 2048
"""The most tokens of prompts, padding included, that a step prefills while no sequence decodes."""

PREFILL_TOKENS_BESIDE = 128
"""A step prefills at least this many tokens while other sequences decode, unless that takes more than half a
second."""

BESIDE_SECONDS = 0.1
"""How long more tokens than these may take: a pause that a reader hardly notices."""

PREEMPTION_LOG_SECONDS = 60.0
"""The time between two log lines about sequences that wait for memory."""

FAILURES = (MemoryError, RuntimeError, ValueError, IndexError)
"""The errors of `Forward.run` inside `memory_errors`."""

logger = logging.getLogger(__name__)


class BatchRunner:
    """The passes of a step: the newest token of each running sequence, then the prompts of joining ones."""

    def __init__(
        self,
        forward: Forward,
        scheduler: Scheduler,
        max_model_len: int,
        vocab_size: int,
        clock: Callable[[], float],
    ) -> None:
        """clock: seconds, to measure the machine's speed."""
        self._forward = forward
        self._scheduler = scheduler
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size
        self._clock = clock
        self._pace = Pace(PREFILL_TOKENS)
        self._pace_beside = Pace(PREFILL_TOKENS, least=PREFILL_TOKENS_BESIDE, seconds=BESIDE_SECONDS)
        self._log_preemptions_at = 0.0
        """Monotonic time from which on a preemption may be logged."""

    def prefill_tokens(self) -> int:
        """Returns how many tokens of prompts the next step takes."""
        return (
            min(self._pace.tokens, self._pace_beside.tokens) if self._scheduler.running else self._pace.tokens
        )

    def limit_prefill(self, most: int) -> None:
        """Takes at most `most` tokens of prompts from now on."""
        self._pace.limit(most)
        self._pace_beside.limit(most)

    def run(self, budget: int) -> tuple[list[Answer], list[RequestOutput]]:
        """Returns answers to all running sequences, in their order, and the outputs of those that failed.

        budget: tokens of a chunk, as the scheduler had it.
        """
        failed: list[RequestOutput] = []
        answers = self._decode()
        # Sequences that join stand after the others, as their answers do.
        answers += self._prefill(self._checked(failed), budget, failed)
        return answers, failed

    def _decode(self) -> list[Answer]:
        """Runs the newest tokens. Where memory does not suffice, the youngest sequence is preempted."""
        scheduler = self._scheduler
        while scheduler.running:
            newest = [sequence.last(row) for row, sequence in enumerate(scheduler.running)]
            try:
                return [self._run(newest, scheduler.lengths())]
            except MemoryError as error:
                reason = str(error)
            scheduler.preempt_youngest()
            self._log_preemption(reason)
        return []

    def _checked(self, failed: list[RequestOutput]) -> list[SequenceState]:
        """Returns the joining sequences; takes out those that the model cannot run."""
        for sequence in [*self._scheduler.joining]:
            reason = None if sequence.prefilled else self._refusal(sequence.token_ids)
            if reason is not None:
                self._scheduler.abort(sequence.request_id)
                failed.append(sequence.failure(reason))
        return [*self._scheduler.joining]

    def _refusal(self, token_ids: Sequence[int]) -> str | None:
        """On a GPU an index out of range ends the process, so no wrong input may get there."""
        if not 0 < len(token_ids) < self._max_model_len:
            return f"{len(token_ids)} tokens leave no room in {self._max_model_len}"
        if not 0 <= min(token_ids) <= max(token_ids) < self._vocab_size:
            return f"a token id lies outside of the vocabulary of {self._vocab_size}"
        return None

    def _prefill(
        self, group: Sequence[SequenceState], budget: int, failed: list[RequestOutput]
    ) -> list[Answer]:
        """Prefills sequences as a whole, or a chunk of a long one; returns the answers to those that now run.

        Where that fails, half of them wait for the next step.
        """
        if not group:
            return []
        scheduler = self._scheduler
        rows = range(len(scheduler.running), len(scheduler.running) + len(group))
        chunks = [sequence.rest(row, budget) for row, sequence in zip(rows, group, strict=True)]
        answer: Answer | None = None
        try:
            answer = self._run_prompts(chunks)
        except FAILURES as error:
            if len(group) == 1:
                self._give_up(group[0], error, failed)
                return []
        if answer is None:
            # Not inside the except clause: the traceback would keep the memory of the failed pass.
            half = len(group) // 2
            scheduler.put_back(group[half:])
            return self._prefill(group[:half], budget, failed)
        for sequence, chunk in zip(group, chunks, strict=True):
            sequence.prefilled = chunk.end
        if any(sequence.prefilled < len(sequence.token_ids) for sequence in group):
            return []
        scheduler.start_running(group)
        return [answer]

    def _give_up(self, sequence: SequenceState, error: Exception, failed: list[RequestOutput]) -> None:
        """A sequence cannot join: it waits for memory where others have it, or else it fails."""
        is_out_of_memory = isinstance(error, MemoryError)
        if is_out_of_memory and self._scheduler.running:
            self._scheduler.preempt(sequence)
            self._log_preemption(str(error))
            return
        self._scheduler.abort(sequence.request_id)
        failed.append(sequence.failure(OUT_OF_MEMORY.format(error) if is_out_of_memory else str(error)))

    def _run_prompts(self, chunks: Sequence[Chunk]) -> Answer:
        """Runs chunks of prompts, and learns from the time that they take."""
        began = self._clock()
        answer = self._run(chunks, self._scheduler.lengths([chunk.end for chunk in chunks]))
        counts = [len(chunk.token_ids) for chunk in chunks]
        tokens = max(counts) * len(counts) if self._forward.pads else sum(counts)
        seconds = self._clock() - began
        for pace in (self._pace, self._pace_beside):
            pace.learn(tokens, seconds)
        return answer

    def _run(self, chunks: Sequence[Chunk], lengths: Sequence[int]) -> Answer:
        """lengths: of all rows in use, after the pass. Raises MemoryError where memory does not suffice."""
        if len(chunks) == len(lengths) and not any(chunk.start for chunk in chunks):
            with suppress(MemoryError):
                return self._try_to_run(chunks, lengths)
            # No row has tokens yet, so all the room that earlier passes made can be freed.
            self._forward.release(0)
        return self._try_to_run(chunks, lengths)

    def _try_to_run(self, chunks: Sequence[Chunk], lengths: Sequence[int]) -> Answer:
        with memory_errors():
            self._forward.make_room(lengths)
            return self._forward.run(chunks)

    def _log_preemption(self, reason: str) -> None:
        if time.monotonic() < self._log_preemptions_at:
            return
        self._log_preemptions_at = time.monotonic() + PREEMPTION_LOG_SECONDS
        logger.warning(
            "memory for keys and values is used up, the youngest of %d sequences waits for others to end "
            "(%d times so far): %s",
            len(self._scheduler.sequences()),
            self._scheduler.preemptions,
            reason,
        )
