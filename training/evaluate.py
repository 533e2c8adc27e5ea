"""Measures the exported model: perplexity on unseen tales, how much it recites, and samples to read.

    python -m training.evaluate --model worker/models/bundled --work /tmp/tale-training \\
        --out /tmp/figures.json

The half-precision weights are loaded in float32, as the worker does on a processor.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor
from transformers import OPTForCausalLM, PreTrainedTokenizerFast

from training.chat import Message
from training.corpus import Corpus
from training.lexicon import HE_NAMES, SHE_NAMES
from training.overlap import GramIndex, longest_run_words, share
from training.tales import write_tale
from training.train import DOCUMENTS, Plan, load_tokenizer, prepare

HELD_OUT_SEED = 424_242  # never trained on
SAMPLE_SEED = 7
MAX_NEW_TOKENS = 320
TEMPERATURE, TOP_P = 0.8, 0.95
SAMPLING = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0}
OPENINGS = (
    "Once upon a time", "One day", "Long ago", "There was once", "In a small village", "Mira",
    "It was a stormy night, and", "Deep in the forest",
)  # fmt: skip
QUESTIONS: tuple[list[Message], ...] = (
    [{"role": "user", "content": "Tell me a story about a fox who lost a key."}],
    [{"role": "user", "content": "Tell me a tale about Anselm the dragon."}],
    [
        {"role": "system", "content": "You are a storyteller."},
        {"role": "user", "content": "write a story about a robot and a girl"},
    ],
    [{"role": "user", "content": "What is the capital of France?"}],
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figures:
    """Perplexities per token and per word; shares from 0 to 1; runs in words."""

    held_out_tales: int
    held_out_tokens: int
    perplexity_per_token: float
    perplexity_per_word: float
    names_right: float
    training_8_grams: int
    unseen_tales_8_gram_share: float
    unseen_tales_median_longest_run: float
    samples: int
    temperature: float
    top_p: float
    sampled_8_gram_share: float
    sampled_median_longest_run: float
    sampled_ended_by_itself: float


@torch.inference_mode()
def held_out_loss(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> tuple[float, int]:
    """Summed next-token cross-entropy in nats, and the number of tokens, the closing ``</s>`` included."""
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([[*tokenizer.encode(text), tokenizer.eos_token_id]])
        logits = model(input_ids=ids).logits
        total += torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    return total, count


@torch.inference_mode()
def names_right(model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> float:
    """Where a name comes up again, how often the model thinks it the likeliest of all names.

    Two or three people are in a tale; somebody who always takes the one named most is right 73 times in 100.
    """
    names = [tokenizer.encode(f" {name}", add_special_tokens=False) for name in SHE_NAMES + HE_NAMES]
    name_ids = torch.tensor([ids[0] for ids in names if len(ids) == 1])
    right, count = 0, 0
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text)])
        best = name_ids[model(input_ids=ids).logits[0, :-1, name_ids].argmax(dim=-1)]
        following = ids[0, 1:]
        for position in torch.isin(following, name_ids).nonzero()[:, 0].tolist():
            if following[position] in ids[0, : position + 1]:
                right += int(best[position] == following[position])
                count += 1
    return right / count


@torch.inference_mode()
def generate(model: OPTForCausalLM, ids: Tensor, **options: Any) -> Tensor:
    """ids int64 [rows, prompt] to int64 [rows, prompt + new]."""
    mask = torch.ones_like(ids)
    rows = cast(Any, model).generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, **options
    )
    return cast(Tensor, rows)


def sample_texts(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, per_opening: int
) -> tuple[list[str], float]:
    """Sampled tales, ``per_opening`` for each of OPENINGS, and the share that ended before MAX_NEW_TOKENS."""
    texts: list[str] = []
    ended = 0
    for opening in OPENINGS:
        prompt = torch.tensor([tokenizer.encode(opening)]).repeat(per_opening, 1)
        rows = generate(model, prompt, **SAMPLING)
        ended += int((rows[:, 1:] == tokenizer.eos_token_id).any(dim=1).sum())
        texts += tokenizer.batch_decode(rows, skip_special_tokens=True)
    return texts, ended / len(texts)


def show_samples(model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """One greedy and one sampled tale per opening, and an answer per question."""
    shown: dict[str, str] = {}
    for opening in OPENINGS:
        ids = torch.tensor([tokenizer.encode(opening)])
        shown[f"greedy: {opening}"] = _decode(tokenizer, generate(model, ids, do_sample=False)[0])
        torch.manual_seed(SAMPLE_SEED)
        rows = generate(model, ids, **SAMPLING)
        shown[f"sampled: {opening}"] = _decode(tokenizer, rows[0])
    for question in QUESTIONS:
        rendered = tokenizer.apply_chat_template(
            cast(list[dict[str, str]], question), add_generation_prompt=True, tokenize=False
        )
        ids = torch.tensor([tokenizer.encode(cast(str, rendered), add_special_tokens=False)])
        torch.manual_seed(SAMPLE_SEED)
        rows = generate(model, ids, **SAMPLING)
        shown[f"asked: {question[-1]['content']}"] = _decode(tokenizer, rows[0, ids.shape[1] :])
    return shown


def _decode(tokenizer: PreTrainedTokenizerFast, ids: Tensor) -> str:
    return cast(str, tokenizer.decode(ids, skip_special_tokens=True))


def training_texts(tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> list[str]:
    ends = [*corpus.starts[1:], len(corpus.ids) - 1]
    rows = [corpus.ids[start:end].tolist() for start, end in zip(corpus.starts, ends, strict=True)]
    return tokenizer.batch_decode(rows, skip_special_tokens=True)


def measure(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, index: GramIndex, tales: int, per_opening: int
) -> Figures:
    unseen = [write_tale(HELD_OUT_SEED, number).text for number in range(tales)]
    loss, tokens = held_out_loss(model, tokenizer, unseen)
    names = names_right(model, tokenizer, unseen)
    torch.manual_seed(SAMPLE_SEED)
    sampled, ended = sample_texts(model, tokenizer, per_opening)
    unseen_hits, sampled_hits = [index.hits(text) for text in unseen], [index.hits(text) for text in sampled]
    return Figures(
        held_out_tales=tales,
        held_out_tokens=tokens,
        perplexity_per_token=math.exp(loss / tokens),
        perplexity_per_word=math.exp(loss / sum(len(text.split()) for text in unseen)),
        names_right=names,
        training_8_grams=len(index),
        unseen_tales_8_gram_share=share(unseen_hits),
        unseen_tales_median_longest_run=median(map(longest_run_words, unseen_hits)),
        samples=len(sampled),
        temperature=TEMPERATURE,
        top_p=TOP_P,
        sampled_8_gram_share=share(sampled_hits),
        sampled_median_longest_run=median(map(longest_run_words, sampled_hits)),
        sampled_ended_by_itself=ended,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the figures and samples")
    parser.add_argument("--work", type=Path, required=True, help="as in training: the corpus is kept here")
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help="as many as were trained on")
    parser.add_argument("--tales", type=int, default=400)
    parser.add_argument("--per-opening", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(2)
    model = OPTForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    tokenizer = load_tokenizer(options.model)
    plan = Plan(steps=None, minutes=0.0, work=options.work, documents=options.documents)
    index = GramIndex(training_texts(*prepare(plan)))
    figures = measure(model, tokenizer, index, options.tales, options.per_opening)
    report = {"figures": asdict(figures), "samples": show_samples(model, tokenizer)}
    options.out.write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    print(json.dumps(report["figures"], indent=2))


if __name__ == "__main__":
    main()
