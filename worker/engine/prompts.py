"""Requests -> token ids and back, with a model's own tokenizer; the same for every engine that has one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from tasks.errors import EngineError
from tasks.request import JobRequest
from worker.engine.base import Prompt

logger = logging.getLogger(__name__)


class PromptEncoder:
    """Used from two threads, to encode and to decode: `tokenizers` locks its state itself."""

    def __init__(self, tokenizer: Any, model: str) -> None:
        """tokenizer: of Hugging Face transformers. model: the model's id as clients name it."""
        self._tokenizer = tokenizer
        self._model = model
        self._known: dict[int, bool] = {}
        """Whether an id has a text, of those that were asked about."""
        self._special_tokens = self._find_special_tokens()

    def encode(self, request: JobRequest) -> Prompt:
        """See `Engine.encode`. Raises EngineError also where the template refuses the messages."""
        token_ids = self._encode(request)
        if not token_ids:
            bos = self._tokenizer.bos_token_id
            if bos is None:
                raise EngineError("the prompt holds no token")
            token_ids = [bos]
        return Prompt(tuple(token_ids), self._decode_text, self._decode_token, self._special_tokens)

    def _encode(self, request: JobRequest) -> list[int]:
        tokenizer = self._tokenizer
        if request.messages is None:
            # Not verbose: it would warn of a length that the loop checks anyway.
            token_ids: list[int] = tokenizer(request.prompt, verbose=False)["input_ids"]
            return token_ids
        if tokenizer.chat_template is None:
            raise EngineError(f"the model {self._model} has no chat template; send `prompt`")
        messages = [{"role": message.role, "content": message.text} for message in request.messages]
        try:
            token_ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateError as error:
            raise EngineError(f"the model's chat template refuses these messages: {error}") from error
        return token_ids

    def _find_special_tokens(self) -> dict[int, str]:
        """Text of each id that `_decode_text` leaves out."""
        added = self._tokenizer.added_tokens_decoder
        # A special token that the vocabulary lacks has no id, or that of the unknown token.
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
        """Whether the tokenizer knows the id. A model may generate more: its vocabulary is often rounded up.

        `tokenizers` leaves such ids out by itself; tokenizers in Python raise, each as it likes.
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
