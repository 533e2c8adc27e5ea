"""Turns requests into token ids and ids into text, with a model's own tokenizer."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tasks.errors import (
    EngineError,
    InvalidMessagesError,
    InvalidPromptError,
    PromptTooLongError,
    first_line,
)
from tasks.messages import Message
from tasks.reasoning_marks import ReasoningMarks
from tasks.request import JobRequest
from tasks.tools import Tool
from worker.engine.base import Prompt
from worker.engine.text.byte_table import TableDecoder, byte_table
from worker.engine.text.longest_token import longest_token_bytes
from worker.engine.text.marks import TOOL_MARKS, showing
from worker.engine.text.reasoning import find_reasoning_marks
from worker.engine.text.response_template import ResponseDivider, response_template
from worker.engine.text.token_bytes import token_bytes

PROBE = "tokenrelay probe"
"""Content that no template has a reason to change."""

QUICK_CHARACTERS = 2**16
"""Up to this many are always tokenized: that is quick, and a refusal can name the number of tokens."""

logger = logging.getLogger(__name__)


class PromptEncoder:
    """Encodes and decodes, in several threads: `tokenizers` locks its state itself."""

    def __init__(self, tokenizer: Any, model: str, max_model_len: int) -> None:
        """tokenizer: of Hugging Face transformers. model: the model's id as clients name it."""
        self._tokenizer = tokenizer
        self._model = model
        self._max_model_len = max_model_len
        self._longest_token = longest_token_bytes(tokenizer)
        self._takes_parts: bool | None = None
        """Whether the chat template wants content in parts; None where it was not tried yet."""
        self._known: dict[int, bool] = {}
        """Whether an id has a text, for those that were decoded."""
        self._special_tokens = self._find_special_tokens()
        self._table = byte_table(tokenizer, self._decode_text)
        self._new_decoder = None if self._table is None else partial(TableDecoder, self._table)
        self._response_template = response_template(tokenizer, model)
        self._reasoning_marks = None if self._response_template else self._find_reasoning_marks()

    @property
    def special_tokens(self) -> Mapping[int, str]:
        """The text of each id that outputs leave out."""
        return self._special_tokens

    @property
    def reasoning_marks(self) -> ReasoningMarks | None:
        """See `Engine.reasoning_marks`."""
        return self._reasoning_marks

    @property
    def divides_outputs(self) -> bool:
        """See `Engine.divides_outputs`."""
        return self._response_template is not None

    def token_bytes(self, vocab_size: int) -> list[bytes]:
        """Returns the bytes of each id in an output's text, see `token_bytes`."""
        return token_bytes(
            self._tokenizer, self._decode_text, self._table, self._special_tokens.keys(), vocab_size
        )

    def encode(self, request: JobRequest, now: float | None = None) -> Prompt:
        """See `Engine.encode`. Also raises EngineError where the prompt has no token.

        Raises PromptTooLongError where the text's length alone shows it: tokenizing it could take seconds.
        """
        new_divider = None
        if request.prompt_token_ids is not None:
            token_ids = self._known_ids(request.prompt_token_ids)
        elif request.messages is None:
            token_ids = self._tokenize(request.prompt or "", with_special_tokens=True)
        else:
            # A template writes all special tokens itself.
            text = self._render(request.messages, request.tools, now)
            token_ids = self._tokenize(text, with_special_tokens=False)
            if self._response_template is not None:
                tools = _bodies(request.tools)
                new_divider = partial(ResponseDivider, self._response_template, text, tools)
        if not token_ids:
            bos = self._tokenizer.bos_token_id
            if bos is None and request.messages is not None:
                raise InvalidMessagesError("the messages hold no token")
            if bos is None:
                raise EngineError("the prompt holds no token")
            token_ids = [bos]
        prompt = Prompt(
            tuple(token_ids),
            self._decode_text,
            self._decode_token,
            self._special_tokens,
            self._new_decoder,
            new_divider,
        )
        return prompt if request.tools is None else showing(prompt, TOOL_MARKS)

    def _tokenize(self, text: str, *, with_special_tokens: bool) -> list[int]:
        self._check_length(text)
        # Not verbose: it would warn of a length that the worker checks anyway.
        encoded = self._tokenizer(text, add_special_tokens=with_special_tokens, verbose=False)
        token_ids: list[int] = encoded["input_ids"]
        return token_ids

    def _known_ids(self, token_ids: list[int]) -> list[int]:
        """Returns the ids. Raises InvalidPromptError where the tokenizer does not have one of them."""
        count = len(self._tokenizer)
        for index, token_id in enumerate(token_ids):
            if token_id >= count:
                raise InvalidPromptError(
                    f"prompt_token_ids.{index}: {token_id} is no token of {self._model}, which has {count}"
                )
        return token_ids

    def _check_length(self, text: str) -> None:
        """Raises PromptTooLongError where a text is so long that it need not be tokenized."""
        if self._longest_token is None or len(text) <= QUICK_CHARACTERS:
            return
        least = len(text.encode()) // self._longest_token
        if least >= self._max_model_len:
            raise PromptTooLongError(
                f"the prompt has at least {least} tokens; the length served is {self._max_model_len}, "
                "and one of them must be left for the output"
            )

    def _render(self, messages: Sequence[Message], tools: Sequence[Tool] | None, now: float | None) -> str:
        """Returns a conversation as the model reads it. Raises InvalidMessagesError where it is refused."""
        if self._tokenizer.chat_template is None:
            raise InvalidMessagesError(f"the model {self._model} has no chat template; send `prompt`")
        to_content = _parts if self._wants_parts() else str
        turns = [_turn(message, to_content) for message in messages]
        shown = _bodies(tools)
        try:
            text = self._apply_template(turns, shown, now)
            is_ignored = bool(shown) and text == self._apply_template(turns, (), now)
        except Exception as error:
            # A template is a program: it refuses by raising, and its bugs may raise anything.
            reason = f"the model's chat template refuses these messages: {first_line(error)}"
            raise InvalidMessagesError(reason) from error
        if is_ignored:
            raise InvalidMessagesError(f"the chat template of the model {self._model} shows no tools")
        return text

    def _apply_template(
        self, turns: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = (), now: float | None = None
    ) -> str:
        """Applies the chat template. Some templates write today's date with transformers' `strftime_now`."""
        moment = datetime.now(UTC) if now is None else datetime.fromtimestamp(now, UTC)
        text: str = self._tokenizer.apply_chat_template(
            turns,
            tools=list(tools) or None,
            add_generation_prompt=True,
            tokenize=False,
            strftime_now=moment.strftime,
        )
        return text

    def _wants_parts(self) -> bool:
        """Whether the template shows content only as a list of parts, like those of some multimodal models.

        Most take strings. A template for lists finds no parts in a string, and shows nothing.
        """
        if self._takes_parts is None:
            self._takes_parts = not self._shows(PROBE) and self._shows(_parts(PROBE))
        return self._takes_parts

    def _shows(self, content: str | list[dict[str, str]]) -> bool:
        return PROBE in self._rendered_probe(content)

    def _rendered_probe(self, content: str | list[dict[str, str]]) -> str:
        try:
            return self._apply_template([{"role": "user", "content": content}])
        except Exception:  # noqa: BLE001
            return ""  # The template refuses this form, or such conversations in any form.

    def _find_reasoning_marks(self) -> ReasoningMarks | None:
        if self._tokenizer.chat_template is None:
            return None
        rendered = self._rendered_probe(_parts(PROBE) if self._wants_parts() else PROBE)
        return find_reasoning_marks(self._tokenizer, rendered, set(self._special_tokens.values()))

    def _find_special_tokens(self) -> dict[int, str]:
        """Returns the text of each id that `_decode_text` leaves out."""
        added = self._tokenizer.added_tokens_decoder
        # A special token that is not in the vocabulary has no id, or that of the unknown token.
        named = [token_id for token_id in self._tokenizer.all_special_ids if token_id is not None]
        texts = dict(zip(named, self._tokenizer.convert_ids_to_tokens(named), strict=True))
        texts |= {token_id: str(token) for token_id, token in added.items()}
        return {token_id: text for token_id, text in texts.items() if not self._decode_text((token_id,))}

    def _decode_text(self, token_ids: Sequence[int]) -> str:
        return self._decode(
            [token_id for token_id in token_ids if self._has_text(token_id)], skip_special=True
        )

    def _decode_token(self, token_id: int) -> str:
        return self._decode([token_id], skip_special=False) if self._has_text(token_id) else ""

    def _decode(self, token_ids: list[int], *, skip_special: bool) -> str:
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
        )
        return text

    def _has_text(self, token_id: int) -> bool:
        """Whether the tokenizer knows an id. A model may generate others: its vocabulary is often rounded up.

        `tokenizers` leaves such ids out by itself. Tokenizers in Python raise various exceptions.
        """
        if self._tokenizer.is_fast:
            return True
        if token_id not in self._known:
            try:
                self._decode([token_id], skip_special=False)
            except Exception as error:  # noqa: BLE001
                logger.warning(
                    "the tokenizer has no text for id %d, which shows nothing: %r", token_id, error
                )
                self._known[token_id] = False
            else:
                self._known[token_id] = True
        return self._known[token_id]


def _bodies(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    return [tool.model_dump(exclude_none=True) for tool in tools or ()]


def _turn(message: Message, to_content: Callable[[str], Any]) -> dict[str, Any]:
    """Returns a message as templates expect it: the arguments of calls as objects."""
    turn: dict[str, Any] = {"role": message.role, "content": to_content(message.text)}
    if message.name is not None:
        turn["name"] = message.name
    if message.reasoning_content is not None:
        turn["reasoning_content"] = message.reasoning_content
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls is not None:
        turn["tool_calls"] = [call.model_dump() for call in message.tool_calls]
        for call in turn["tool_calls"]:
            call["function"]["arguments"] = _arguments(call["function"]["arguments"])
    return turn


def _arguments(text: str) -> Any:
    """Returns a call's arguments; as text where a model wrote something that is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]
