"""One choice of a job on this worker: its text, and the part of it that is not logged yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.job import FinishReason
from tasks.log import LoggedLogprobs, encode_tokens
from tasks.output_parts import Part, joined
from worker.engine.base import DecodeToken, EngineRequest, OutputDivider, RequestOutput, TokenLogprobs
from worker.engine.text.detokenizer import Detokenizer

LOGPROB_DIGITS = 5
"""How many decimal places are logged, more than the precision of a float32."""


@dataclass(slots=True)
class ChoiceRun:
    """One choice: its state, and the part of it that is not logged yet."""

    request: EngineRequest
    detokenizer: Detokenizer
    decode_token: DecodeToken
    finish_reason: FinishReason | None
    completion_tokens: int
    """The number of tokens of all attempts."""
    token_ids: list[int] = field(default_factory=list)
    """Ids not logged yet."""
    text: str = ""
    """Text to show that is not logged yet."""
    is_end_unlogged: bool = False
    logprobs: list[LoggedLogprobs] = field(default_factory=list)
    """The logprobs of the ids that are not logged yet, if the client asked for them."""
    whole_texts: Mapping[int, str] = field(default_factory=dict)
    """See `Detokenizer.whole_texts`. Empty before the first token and after the end."""

    divider: OutputDivider | None = None
    """Divides the text into parts; None where the reader of the log does, or nobody."""
    parts: list[Part] = field(default_factory=list)
    """The parts that are not logged yet, if there is a divider."""

    def divide_with(self, divider: OutputDivider, logged_text: str) -> None:
        """Has the text divided from now on. logged_text: what earlier attempts logged, with its parts."""
        self.divider = divider
        divider.push(logged_text)

    @property
    def is_running(self) -> bool:
        return self.finish_reason is None

    def push_whole(self, output: RequestOutput) -> bool:
        """Takes a single token whose text can be shown at once; nearly all are like that.

        Returns False where it is not; then the output is for `push`.
        """
        if output.finish_reason is not None or output.logprobs is not None or len(output.token_ids) != 1:
            return False
        text = self.whole_texts.get(output.token_ids[0])
        if text is None:
            return False
        self.token_ids += output.token_ids
        self.completion_tokens += 1
        self.text += text
        return True

    def push(self, output: RequestOutput) -> None:
        """Takes what a step added to this choice."""
        self._push_each(output)
        is_plain = self.is_running and self.divider is None
        self.whole_texts = self.detokenizer.whole_texts if is_plain else {}

    def _push_each(self, output: RequestOutput) -> None:
        last = len(output.token_ids) - 1
        for index, token_id in enumerate(output.token_ids):
            self.token_ids.append(token_id)
            self.completion_tokens += 1
            was_in_reasoning = self.is_in_reasoning
            # The end of sequence is not text, even where a model uses an ordinary token for it.
            has_stopped = output.finish_reason is FinishReason.STOP and not output.ends_with_text
            is_end = index == last and has_stopped
            detokenizer = self.detokenizer
            self._show(detokenizer.push_end(token_id) if is_end else detokenizer.push((token_id,)))
            if output.logprobs is not None:
                is_of_reasoning = was_in_reasoning or self.is_in_reasoning
                self.logprobs.append(self._logged(token_id, output.logprobs[index], is_of_reasoning))
            if self.detokenizer.stopped:
                self._show_rest()
                self._finish(FinishReason.STOP)
                return
        if output.finish_reason:
            self.end(output.finish_reason)

    def end(self, reason: FinishReason) -> None:
        """Ends the choice, and shows the text that was held back. A stop string may be complete in it."""
        self._show(self.detokenizer.finish())
        self._show_rest()
        self._finish(FinishReason.STOP if self.detokenizer.stopped else reason)

    def break_off(self) -> None:
        """Ends the choice with an error, without what was held back: it cannot be decoded or divided."""
        self._finish(FinishReason.ERROR)

    def _finish(self, reason: FinishReason) -> None:
        self.finish_reason, self.is_end_unlogged = reason, True
        self.whole_texts = {}

    def take_entry(self) -> str:
        """Returns an encoded entry of everything that is not logged yet.

        There is one to make if there is text or an unlogged end. Ids whose text may not be shown yet wait.
        """
        index = self.request.sampling.choice
        parts = None if self.divider is None else joined(self.parts)
        entry = encode_tokens(
            index, self.token_ids, self.text, self.finish_reason, self.logprobs or None, parts
        )
        self.token_ids, self.text, self.is_end_unlogged, self.logprobs, self.parts = [], "", False, [], []
        return entry

    @property
    def is_in_reasoning(self) -> bool:
        return self.divider is not None and self.divider.is_in_reasoning

    def _show(self, text: str) -> None:
        self.text += text
        if self.divider is not None:
            self.parts += self.divider.push(text)

    def _show_rest(self) -> None:
        if self.divider is not None:
            self.parts += self.divider.finish()

    def _logged(self, token_id: int, logprobs: TokenLogprobs, is_of_reasoning: bool) -> LoggedLogprobs:
        """Returns logprobs with texts in place of ids: readers of the log have no tokenizer."""
        top = [[self.decode_token(best), round(value, LOGPROB_DIGITS)] for best, value in logprobs.top]
        logged = [self.decode_token(token_id), round(logprobs.logprob, LOGPROB_DIGITS), top]
        return [*logged, 1] if is_of_reasoning else logged
