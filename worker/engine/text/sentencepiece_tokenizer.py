"""The tokenizer of models that have a sentencepiece model, `tokenizer.model`, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from transformers import SentencePieceBackend

NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
"""`normalizer_spec { add_dummy_prefix: false }`: appended to a serialized ModelProto, it overrides."""

NAMED = ("unk", "bos", "eos", "pad")


def is_sentencepiece(path: Path) -> bool:
    """Whether the file holds a sentencepiece model. Some models have another format under the same name."""
    try:
        SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError):
        return False
    return True


class SentencePieceTokenizer(SentencePieceBackend):
    """Encodes and decodes with the sentencepiece library itself, by transformers' interface.

    transformers' own classes convert the model to another library and give other results, above all for
    spaces.

    Options of tokenizer_config.json: `add_bos_token` (true by default), `add_eos_token` (false), and `legacy`
    (true): whether text after a special token starts with a space, as a whole text does.
    """

    def __init__(
        self,
        vocab_file: str,
        *,
        legacy: bool | None = True,
        add_bos_token: bool | None = True,
        add_eos_token: bool | None = False,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("sp_model_kwargs", None)  # They could only turn on sampling: other ids for the same text.
        model = Path(vocab_file).read_bytes()
        processor = SentencePieceProcessor(model_proto=model)
        kwargs |= _special_tokens(processor, kwargs)
        super().__init__(vocab_file=vocab_file, **kwargs)  # type: ignore[no-untyped-call]
        self._inner = processor
        """For text after a special token."""
        if legacy is False:
            self._inner = SentencePieceProcessor(model_proto=model + NO_DUMMY_PREFIX)
        self._add_bos = add_bos_token is not False and self.bos_token_id is not None
        self._add_eos = bool(add_eos_token) and self.eos_token_id is not None
        self._special_ids = frozenset(self.all_special_ids)

    def tokenize(self, text: str, *_: Any, **__: Any) -> list[str]:
        """Cuts a text into pieces. Special and added tokens in it are pieces of their own."""
        pieces: list[str] = []
        for part in self.tokens_trie.split(text):
            if part in self._added_tokens_encoder:
                pieces.append(part)
            elif part:
                processor = self._inner if pieces else self.sp_model
                pieces += processor.encode(part, out_type=str)
        return pieces

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        first = [self.bos_token_id] if self._add_bos else []
        last = [self.eos_token_id] if self._add_eos else []
        return [*first, *token_ids_0, *(token_ids_1 or []), *last]

    def _decode(
        self, token_ids: int | list[int], skip_special_tokens: bool = False, *_: Any, **__: Any
    ) -> str:
        """Turns ids into text. The library leaves out special tokens, so they are added here on request."""
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        if skip_special_tokens:
            return self._text([token_id for token_id in ids if token_id not in self._special_ids])
        text, run = "", []
        for token_id in ids:
            if token_id not in self._special_ids:
                run.append(token_id)
                continue
            text += self._text(run) + self._piece(token_id)
            run = []
        return text + self._text(run)

    def _text(self, token_ids: Sequence[int]) -> str:
        text: str = self.sp_model.decode([self._piece(token_id) for token_id in token_ids])
        return text

    def _piece(self, token_id: int) -> str:
        added = self._added_tokens_decoder.get(token_id)
        return self.sp_model.id_to_piece(token_id) if added is None else added.content


def _special_tokens(processor: SentencePieceProcessor, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the model's special tokens as arguments of the tokenizer; those of its config come first."""
    named: dict[str, Any] = {}
    for name in NAMED:
        token_id = getattr(processor, f"{name}_id")()
        token = config.get(f"{name}_token")
        if token is None and token_id >= 0:
            token = processor.id_to_piece(token_id)
        if token is not None:
            named[f"{name}_token"] = token
    texts = {str(token) for token in named.values()}
    ids = [token_id for token_id in range(processor.get_piece_size()) if processor.is_control(token_id)]
    control = [piece for token_id in ids if (piece := processor.id_to_piece(token_id)) not in texts]
    return {**named, "extra_special_tokens": [*(config.get("extra_special_tokens") or []), *control]}
