"""Tokenrelay's own engine, without its queue."""

from __future__ import annotations

from pathlib import Path

from bench.engines.base import NEW_TOKENS, STREAMS, Engine, Generate


def load(folder: Path, precision: str) -> Generate:
    from tasks.settings import Settings
    from worker.engine import load_engine
    from worker.engine.base import EngineRequest, SamplingParams

    engine = load_engine(
        Settings(model_id=str(folder), dtype=precision, max_num_seqs=max(STREAMS), device="cpu")
    )

    def generate(batch: list[list[int]], temperature: float) -> list[list[int]]:
        for index, prompt in enumerate(batch):
            sampling = SamplingParams(
                max_tokens=NEW_TOKENS, temperature=temperature, seed=index, ignore_eos=True
            )
            engine.add_request(EngineRequest(str(index), tuple(prompt), (), sampling))
        tokens: list[list[int]] = [[] for _ in batch]
        while engine.has_unfinished_requests():
            for output in engine.step():
                tokens[int(output.request_id)].extend(output.token_ids)
        return tokens

    return generate


OURS = Engine("ours", load, ("float32", "bfloat16", "int8"))
