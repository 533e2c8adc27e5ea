"""llama.cpp by its batch API, which decodes the next token of all sequences in one call."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from bench.engines.base import BENCH_VENV, NEW_TOKENS, PROMPT_TOKENS, STREAMS, Engine, Generate
from worker.cores import usable_cores

CELLS_PER_SEQUENCE = 256
"""llama.cpp rounds a sequence's share of the cache up to a multiple of this."""


def convert(folder: Path, target: Path) -> None:
    from bench.engines.gguf import write_gguf

    for precision in LLAMA_CPP.precisions:
        write_gguf(folder, target / f"{precision}.gguf", precision)


def load(folder: Path, precision: str) -> Generate:
    import llama_cpp

    session = _Session(llama_cpp, folder / f"{precision}.gguf", precision)

    def generate(batch: list[list[int]], temperature: float) -> list[list[int]]:
        samplers = [session.sampler(temperature, seed) for seed in range(len(batch))]
        session.clear()
        next_ids = session.decode(dict(enumerate(batch)), 0, samplers)
        tokens = [[token_id] for token_id in next_ids]
        for place in range(PROMPT_TOKENS, PROMPT_TOKENS + NEW_TOKENS - 1):
            fed = {sequence: [token_id] for sequence, token_id in enumerate(next_ids)}
            next_ids = session.decode(fed, place, samplers)
            for sequence, token_id in enumerate(next_ids):
                tokens[sequence].append(token_id)
        for sampler in samplers:
            llama_cpp.llama_sampler_free(sampler)
        return tokens

    return generate


class _Session:
    """A model with room for all streams, and the batch that is handed to it."""

    def __init__(self, library: Any, path: Path, precision: str) -> None:
        self._library = library
        self._log = library.llama_log_callback(lambda *_: None)
        library.llama_log_set(self._log, ctypes.c_void_p(0))
        library.llama_backend_init()
        self._model = library.llama_model_load_from_file(
            str(path).encode(), library.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self._context = library.llama_init_from_model(self._model, self._parameters(precision))
        if not self._context:
            raise RuntimeError("llama.cpp could not make a context")
        self._batch = library.llama_batch_init(max(STREAMS) * PROMPT_TOKENS, 0, 1)

    def _parameters(self, precision: str) -> Any:
        parameters = self._library.llama_context_default_params()
        parameters.n_seq_max = max(STREAMS)
        parameters.n_ctx = max(STREAMS) * CELLS_PER_SEQUENCE
        parameters.n_batch = max(STREAMS) * PROMPT_TOKENS
        parameters.n_threads = parameters.n_threads_batch = usable_cores()
        parameters.no_perf = True
        if precision == "float32":  # By default the cache is float16, and flash attention rounds to it.
            parameters.type_k = parameters.type_v = self._library.GGML_TYPE_F32
            parameters.flash_attn_type = self._library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return parameters

    def sampler(self, temperature: float, seed: int) -> Any:
        chain = self._library.llama_sampler_chain_init(self._library.llama_sampler_chain_default_params())
        if temperature == 0:
            links = [self._library.llama_sampler_init_greedy()]
        else:
            links = [
                self._library.llama_sampler_init_temp(temperature),
                self._library.llama_sampler_init_dist(seed),
            ]
        for link in links:
            self._library.llama_sampler_chain_add(chain, link)
        return chain

    def clear(self) -> None:
        """Forgets all sequences."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), False)

    def decode(self, fed: dict[int, list[int]], place: int, samplers: list[Any]) -> list[int]:
        """Feeds tokens to the sequences, from position `place` on. Returns each sequence's next token."""
        batch, index = self._batch, 0
        asked = []
        for sequence, token_ids in fed.items():
            for offset, token_id in enumerate(token_ids):
                batch.token[index], batch.pos[index] = token_id, place + offset
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
                batch.logits[index] = offset == len(token_ids) - 1
                index += 1
            asked.append(index - 1)
        batch.n_tokens = index
        status = self._library.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode has returned {status}")
        sample = self._library.llama_sampler_sample
        return [sample(samplers[sequence], self._context, at) for sequence, at in enumerate(asked)]


LLAMA_CPP = Engine(
    "llama.cpp",
    load,
    ("float32", "bfloat16", "int8"),
    model_types=("llama",),
    convert=convert,
    python=BENCH_VENV / "bin" / "python",
    set_up="make bench-setup",
)
