"""Turns token ids, as they come, into the text that may be shown.

It takes two steps. `IncrementalDecoder` turns ids into text with complete code points; `OutputStops` holds
back what may be the beginning of a stop string. `Detokenizer` does both, and is what the worker uses.

Both decide after each id, and by the ids so far alone. So neither how many ids come at a time nor a change of
worker can alter the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from worker.engine.base import Decode, TextDecoder
from worker.engine.text.stop_strings import OutputStops

REPLACEMENT = "\ufffd"
NONE: Mapping[int, str] = MappingProxyType({})

MAX_CODE_POINT_IDS = 4
"""A code point has at most 4 bytes in UTF-8, and each id that shows anything has at least one."""

MAX_CONTEXT_SEARCH_IDS = 256
"""How far back the prompt is searched for a context. It takes about a millisecond at worst."""


class Detokenizer:
    """The text of one choice, as it may be shown.

    The results of `push` and `finish`, joined, are the text of the ids before the first stop string.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        decode: Decode,
        stop: Sequence[str],
        special_tokens: Mapping[int, str] = NONE,
        decoder: TextDecoder | None = None,
    ) -> None:
        """special_tokens: the text of ids that `decode` leaves out; a stop string may name them.

        decoder: a fresh one that agrees with `decode`; None to use `decode`.
        """
        self._decoder = decoder or IncrementalDecoder(prompt_ids, decode)
        self._stops = OutputStops(stop, special_tokens)
        self._special_tokens = special_tokens
        self._to_skip = 0
        self._owed = ""

    @classmethod
    def resume(
        cls,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        shown_chars: int,
        decode: Decode,
        stop: Sequence[str],
        special_tokens: Mapping[int, str] = NONE,
        decoder: TextDecoder | None = None,
    ) -> Detokenizer:
        """Continues where an earlier attempt stopped.

        output_ids: all ids logged so far, including those whose text was held back.
        shown_chars: how many characters (not bytes) were shown so far. Where this attempt would have shown
            more by now, its next call returns the difference as well. Where it would have shown fewer, it
            leaves out what the reader has already.
        """
        detokenizer = cls(prompt_ids, decode, stop, special_tokens, decoder)
        detokenizer._to_skip = shown_chars
        detokenizer._owed = detokenizer.push(output_ids)
        return detokenizer

    @property
    def whole_texts(self) -> Mapping[int, str]:
        """The text of each id that may be shown at once, whatever comes next, and needs no `push`.

        It is empty while text is held back, or where a stop string may come. After the next `push` it may be
        another one.
        """
        if self._to_skip or self._owed or not self._stops.is_empty:
            return NONE
        return self._decoder.whole_texts

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found. The text before it has been returned, and no more follows."""
        return self._stops.found

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes the next ids. Returns the text to show now. Ids after a stop string are ignored."""
        shown = []
        for token_id in token_ids:
            if self.stopped:
                break
            mark = self._stops.mark_of(token_id)
            if mark is not None:
                text = self._up_to(mark)
            elif token_id in self._special_tokens:
                continue
            else:
                text = self._decoder.push(token_id)
            shown.append(self._stops.push(text))
        return self._unseen("".join(shown))

    def push_end(self, token_id: int) -> str:
        """Takes the id that ended the sequence: it has no text, but a stop string may name it."""
        mark = self._stops.mark_of(token_id)
        return self._unseen("" if mark is None else self._stops.push(self._up_to(mark)))

    def finish(self) -> str:
        """Returns the text that was held back, at an end that no stop string has caused.

        A stop string may still be found in it (see `OutputStops`): then `stopped` is true.
        """
        if self.stopped:
            return self._unseen("")
        return self._unseen(self._stops.push(self._decoder.finish()) + self._stops.finish())

    def _up_to(self, mark: str) -> str:
        """Returns what is held back, and the mark: a special token of a stop string ends a code point."""
        return self._decoder.finish() + mark

    def _unseen(self, text: str) -> str:
        skipped = min(self._to_skip, len(text))
        self._to_skip -= skipped
        owed, self._owed = self._owed, ""
        return owed + text[skipped:]


class IncrementalDecoder:
    """Turns ids into text of complete code points, at a cost for each id that does not grow with the output.

    The text of the output is what `decode(prompt + output)` has after `decode(prompt)`, so that a space
    before the first word is shown although `decode` strips it where a text begins (sentencepiece). Decoding
    all of it for each id would take quadratic time. A window is decoded instead: the ids since the last
    complete code point, after one character's ids as context.

    The result equals the full decode:
    - with byte-level BPE, for all ids, invalid UTF-8 included;
    - with bytes that `decode` hides until a code point is complete (ByT5), unless there is U+FFFD in it;
    - with byte fallback (Llama), wherever the bytes are valid UTF-8. The full decode turns a whole run of
      byte ids into U+FFFD when one of them is invalid, including those shown before. That cannot be streamed.
      Here the text shown before stays, invalid bytes become U+FFFD, and the text after them is right again.

    An incomplete code point shows as U+FFFD at the end and is held back; `finish` returns it. A real U+FFFD
    is held back for no longer than a code point may take.
    """

    def __init__(self, prompt_ids: Sequence[int], decode: Decode) -> None:
        self._decode = decode
        self._context: tuple[int, ...] = ()
        self._context_text = ""
        self._pending: list[int] = []
        self._text = ""
        """Text of the pending ids."""
        self._shown = 0
        """How many characters of it have been returned."""
        self._take_context(prompt_ids[-MAX_CONTEXT_SEARCH_IDS:])

    def push(self, token_id: int) -> str:
        """Takes the next id. Returns the text to show now."""
        self._pending.append(token_id)
        before, self._text = self._text, self._decode_pending()
        if not self._text:
            return self._keep_silent()
        if self._text == before and not self._decode((token_id, token_id)):
            # An id that the tokenizer does not know, or a special token. Decoding it once would not show
            # that: a lone space has no text where a text begins.
            self._pending.pop()
            return ""
        if not self._text.endswith(REPLACEMENT) or len(self._text) < len(before):
            # A text that gets shorter and ends with U+FFFD has a real one: byte fallback showed one for each
            # of its bytes before.
            return self._commit()
        if len(self._pending) < MAX_CODE_POINT_IDS:
            return ""
        return self._move_on()

    @property
    def whole_texts(self) -> Mapping[int, str]:
        """None: the text of an id depends on its neighbours."""
        return NONE

    def finish(self) -> str:
        """Returns what is held back, incomplete code points as U+FFFD."""
        return self._commit()

    def _decode_pending(self) -> str:
        text = self._decode((*self._context, *self._pending))
        if text.startswith(self._context_text):
            return text[len(self._context_text) :]
        # Byte fallback: the context is of byte ids as well, and invalid bytes after it have changed its text.
        return self._decode(self._pending)

    def _commit(self) -> str:
        """Shows all pending text. The next window begins after it."""
        shown = self._text[self._shown :]
        self._take_context(self._pending)
        self._pending = []
        self._text, self._shown = "", 0
        return shown

    def _take_context(self, token_ids: Sequence[int]) -> None:
        """Decodes after the last of these ids from now on: as few as show whole characters by themselves.

        A part of a code point would spoil the window, and an id without text would not keep `decode` from
        stripping a space. Where all ids are like that, the earlier context is as good.
        """
        for end in range(len(token_ids), 0, -1):
            for start in range(end - 1, max(end - 1 - MAX_CODE_POINT_IDS, -1), -1):
                context = tuple(token_ids[start:end])
                text = self._decode(context)
                if text and REPLACEMENT not in text:
                    self._context, self._context_text = context, text
                    return

    def _keep_silent(self) -> str:
        """Shows nothing: no pending id has a text yet, but they may matter for the text that follows.

        They may be a space that `decode` strips, which the next id needs to keep its own. Or the first bytes
        of a code point, which some tokenizers hide until they have all. Or special tokens, which do not
        matter.
        """
        if len(self._pending) == MAX_CODE_POINT_IDS:
            del self._pending[0]
        return ""

    def _move_on(self) -> str:
        """Drops the oldest pending id: an incomplete code point at the end must have begun after it.

        Lossy UTF-8 decoding synchronizes within 3 bytes wherever it starts. So the other ids, decoded by
        themselves, end as the whole does, and characters can be counted from the end.
        """
        oldest, rest = self._pending[0], self._pending[1:]
        rest_text = self._decode(rest)
        if not rest_text.endswith(REPLACEMENT):
            # Byte fallback: the rest is whole, only the oldest byte made the run invalid.
            self._text = self._decode((oldest,)) + rest_text
            return self._commit()
        unshown = len(self._text) - self._shown
        held = min(_trailing_replacements(self._text), _trailing_replacements(rest_text), unshown)
        shown = self._text[self._shown : len(self._text) - held]
        self._pending, self._text, self._shown = rest, rest_text, len(rest_text) - held
        return shown


def _trailing_replacements(text: str) -> int:
    """Returns how many U+FFFD may be an incomplete code point: byte fallback writes one for each byte."""
    return min(len(text) - len(text.rstrip(REPLACEMENT)), MAX_CODE_POINT_IDS - 1)
