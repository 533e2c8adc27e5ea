"""Measures what DTYPE=bfloat16 and int8 cost in quality, compared with float32, on the native decoder.

    .venv/bin/python -m bench.quality

There are two models: the bundled one, on tales that it was not trained on, and a random one of opt-125m's
shape, on text that it sampled itself in float32. The table shows the perplexity of the text, the divergence
of the distributions from float32's (Kullback-Leibler, in nats per token), and how often the most probable
token is the same.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

from bench.models import BUNDLED, save_opt_125m
from bench.stage import print_table
from tasks.settings import Settings
from training.evaluate import HELD_OUT_SEED
from training.tales import write_tale
from worker.engine.base import EngineRequest, SamplingParams
from worker.engine.forward import Chunk
from worker.engine.transformers.engine import TransformersEngine

PRECISIONS = ("float32", "bfloat16", "int8")


def engine_on(folder: Path, precision: str, rows: int) -> TransformersEngine:
    return TransformersEngine(
        Settings(model_id=str(folder), dtype=precision, max_num_seqs=rows, device="cpu", max_model_len=256)
    )


@torch.inference_mode()
def logprobs(engine: TransformersEngine, texts: list[list[int]]) -> Tensor:
    """Returns log probabilities of all next tokens of texts of one length, [texts * (tokens - 1), vocab]."""
    steps = []
    for position in range(len(texts[0]) - 1):
        chunks = [Chunk(row, position, [ids[position]], wants_logits=True) for row, ids in enumerate(texts)]
        engine._forward.make_room([position + 1] * len(texts))
        steps.append(engine._forward.run(chunks).logits.log_softmax(dim=-1))
    return torch.stack(steps, dim=1).flatten(0, 1)


def held_out_tales(count: int, length: int) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    texts: list[list[int]] = []
    number = 0
    while len(texts) < count:
        ids = tokenizer(write_tale(HELD_OUT_SEED, number).text)["input_ids"]
        number += 1
        if len(ids) >= length:
            texts.append(ids[:length])
    return texts


def sampled_texts(folder: Path, count: int, length: int) -> list[list[int]]:
    engine = engine_on(folder, "float32", count)
    for index in range(count):
        sampling = SamplingParams(max_tokens=length - 1, temperature=1, seed=index, ignore_eos=True)
        engine.add_request(EngineRequest(str(index), (2,), (), sampling))
    texts = [[2] for _ in range(count)]
    while engine.has_unfinished_requests():
        for output in engine.step():
            texts[int(output.request_id)].extend(output.token_ids)
    return texts


def measure(folder: Path, texts: list[list[int]]) -> None:
    next_ids = torch.tensor(texts)[:, 1:].reshape(-1, 1)
    rows: list[list[str]] = []
    reference: Tensor | None = None
    for precision in PRECISIONS:
        found = logprobs(engine_on(folder, precision, len(texts)), texts)
        reference = found if reference is None else reference
        perplexity = math.exp(-found.gather(1, next_ids).double().mean().item())
        divergence = (reference.exp() * (reference - found)).sum(dim=1).double().mean().item()
        same = (found.argmax(dim=1) == reference.argmax(dim=1)).double().mean().item()
        rows.append([precision, f"{perplexity:.4f}", f"{divergence:.2e}", f"{100 * same:.1f} %"])
    print_table(["", "perplexity", "divergence", "same best token"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128, help="of each text")
    options = parser.parse_args()
    print("the bundled model, held-out tales")
    measure(BUNDLED, held_out_tales(options.texts, options.tokens))
    with tempfile.TemporaryDirectory(prefix="bench-model-") as temporary:
        folder = save_opt_125m(Path(temporary))
        print("\na random model of opt-125m's shape, text of its own")
        # Each position's distribution has 50,272 values.
        measure(folder, sampled_texts(folder, options.texts // 8, options.tokens // 2))


if __name__ == "__main__":
    main()
