"""CTranslate2: a static batch in float32, or with weights and activations rounded to 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.engines.base import BENCH_VENV, NEW_TOKENS, Engine, Generate
from worker.cores import usable_cores


def convert(folder: Path, target: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc,unused-ignore]
        """Names tokens by their ids, because CTranslate2 takes prompts as strings."""

        def load_tokenizer(self, _: Any, name: str, **__: Any) -> Any:
            from transformers import AutoConfig

            return _Numbers(AutoConfig.from_pretrained(name).vocab_size)

    Converter(str(folder)).convert(str(target), quantization="float32")


class _Numbers:
    """A tokenizer as the converter sees one.

    CTranslate2 never generates the end of sequence, so no sequence ends early. The end is set to the last id.
    Other engines may generate this id, but hardly ever do.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.bos_token = self.unk_token = "0"
        self.eos_token = str(vocab_size - 1)

    def get_vocab(self) -> dict[str, int]:
        return {str(token_id): token_id for token_id in range(self._vocab_size)}


def load(folder: Path, precision: str) -> Generate:
    import ctranslate2

    generator = ctranslate2.Generator(
        str(folder), device="cpu", compute_type=precision, inter_threads=1, intra_threads=usable_cores()
    )
    if not generator.compute_type.startswith(precision):
        raise RuntimeError(f"CTranslate2 computes in {generator.compute_type}, not in {precision}")

    def generate(batch: list[list[int]], temperature: float) -> list[list[int]]:
        results = generator.generate_batch(
            [[str(token_id) for token_id in prompt] for prompt in batch],
            max_length=NEW_TOKENS,
            min_length=NEW_TOKENS,
            sampling_topk=1 if temperature == 0 else 0,
            sampling_temperature=temperature or 1,
            include_prompt_in_result=False,  # Otherwise it computes a prompt token by token.
        )
        return [result.sequences_ids[0] for result in results]

    return generate


CTRANSLATE2 = Engine(
    "CTranslate2",
    load,
    ("float32", "int8"),
    convert=convert,
    python=BENCH_VENV / "bin" / "python",
    set_up="make bench-setup",
)
