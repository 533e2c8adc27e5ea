"""Trains the bundled model from scratch: writes the tales, learns the tokenizer, trains, exports float16.

    OMP_WAIT_POLICY=PASSIVE python -m training.train --minutes 55 \\
        --out worker/models/bundled --work /tmp/tale-training

Needs a C++ compiler, for torch.compile. Without the wait policy, threads that share the machine with other
work spin where they should sleep. A killed run goes on from its last checkpoint when started again;
``--export-only`` exports that checkpoint.
"""

import argparse
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from training.beginning import begin
from training.corpus import Corpus, encode_documents, write_documents
from training.tokenizer import CONTEXT_TOKENS, VOCAB_SIZE, train_tokenizer

TRAIN_SEED = 20261122
DOCUMENTS = 60_000  # as much as two cores can read in an hour, so that little is read twice
TOKENIZER_DOCUMENTS = 20_000
BATCH_TOKENS = 2048  # small, because two cores see few tokens: more steps teach more
# (until this share of the run, window in tokens): the model learns names sooner from short windows.
WINDOWS = ((0.35, 128), (0.7, 256), (1.0, 512))
DOCUMENT_START_SHARE = 0.6
PEAK_RATE, FINAL_RATE, WARM_UP_STEPS = 3e-3, 3e-5, 100
CHECKPOINT_SECONDS = 60.0
LOG_STEPS = 100

log = logging.getLogger("train")


@dataclass(frozen=True, slots=True)
class Plan:
    """Either ``steps`` or ``minutes`` ends the run; steps make it repeatable, minutes fit it into an hour."""

    steps: int | None
    minutes: float
    work: Path
    documents: int

    def progress(self, step: int, seconds: float) -> float:
        return step / self.steps if self.steps else seconds / (60 * self.minutes)


def model_config() -> OPTConfig:
    return OPTConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        word_embed_proj_dim=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        ffn_dim=1024,
        max_position_embeddings=CONTEXT_TOKENS,
        do_layer_norm_before=True,
        dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
        tie_word_embeddings=True,
    )


def learning_rate(step: int, progress: float) -> float:
    """Linear warm-up, then a cosine down to FINAL_RATE at progress 1."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (FINAL_RATE + (PEAK_RATE - FINAL_RATE) * cosine)


def window_at(progress: float) -> int:
    return next(window for until, window in WINDOWS if progress < until)


def draw_batch(corpus: Corpus, window: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ids and positions, both int64 [BATCH_TOKENS / window, window].

    Half of the rows begin with a document at position 0, as a prompt does. The others begin anywhere and lie
    anywhere in the context, so that short windows train the late positions, too.
    """
    rng = np.random.default_rng((TRAIN_SEED, seed))
    rows = BATCH_TOKENS // window
    last = len(corpus.ids) - window
    at_start = rng.random(rows) < DOCUMENT_START_SHARE
    begins = np.where(at_start, rng.choice(corpus.starts, rows), rng.integers(0, last, rows)).clip(0, last)
    offsets = np.where(at_start, 0, rng.integers(0, CONTEXT_TOKENS - window + 1, rows))
    span = np.arange(window)
    ids = corpus.ids[begins[:, None] + span].astype(np.int64)
    return torch.from_numpy(ids), torch.from_numpy(offsets[:, None] + span)


def loss_of(model: OPTForCausalLM, ids: Tensor, positions: Tensor) -> Tensor:
    """Mean next-token cross-entropy in nats."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())


def make_optimizer(model: OPTForCausalLM) -> torch.optim.AdamW:
    trained = [p for p in model.parameters() if p.requires_grad]
    embedding = model.model.decoder.embed_tokens.weight
    matrices = [p for p in trained if p.dim() >= 2 and p is not embedding]
    # A decayed embedding tells names less and less apart, and the model then never learns to copy one.
    kept = [p for p in trained if p.dim() < 2 or p is embedding]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), fused=True)


def train(model: OPTForCausalLM, corpus: Corpus, plan: Plan) -> None:
    optimizer = make_optimizer(model)
    compiled_loss = torch.compile(loss_of)
    step, seconds = load_checkpoint(plan.work, model, optimizer)
    saved_at = last = time.monotonic()
    while (progress := plan.progress(step, seconds)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, progress)
        loss = compiled_loss(model, *draw_batch(corpus, window_at(progress), step))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, now = step + 1, time.monotonic()
        seconds, last = seconds + now - last, now
        if step % LOG_STEPS == 0:
            rate = step * BATCH_TOKENS / seconds
            log.info("step %d  %.0f s  %.0f tokens/s  loss %.4f", step, seconds, rate, loss.item())
        if now - saved_at > CHECKPOINT_SECONDS:
            save_checkpoint(plan.work, model, optimizer, step, seconds)
            saved_at = now
    save_checkpoint(plan.work, model, optimizer, step, seconds)


def save_checkpoint(
    work: Path, model: OPTForCausalLM, optimizer: torch.optim.AdamW, step: int, seconds: float
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, work / "new.pt")
    (work / "new.pt").replace(work / "checkpoint.pt")  # so that a kill never leaves an incomplete file


def load_checkpoint(
    work: Path, model: OPTForCausalLM, optimizer: torch.optim.AdamW | None
) -> tuple[int, float]:
    """Returns the steps and seconds already trained; (0, 0.0) for a new run."""
    path = work / "checkpoint.pt"
    if not path.exists():
        return 0, 0.0
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])


def export(model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes config, float16 weights and tokenizer to ``out``. The model given is left in half precision."""
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=2, eos_token_id=2, pad_token_id=1, do_sample=True, temperature=0.8, top_p=0.95
    )
    model.half().save_pretrained(out)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(out)


def prepare(plan: Plan) -> tuple[PreTrainedTokenizerFast, Corpus]:
    """The tokenizer and the encoded training text, written once and kept in the work folder."""
    folder, packed = plan.work / "tokenizer", plan.work / "corpus.npz"
    if packed.exists():
        saved = np.load(packed)
        return load_tokenizer(folder), Corpus(saved["ids"], saved["starts"])
    documents = write_documents(TRAIN_SEED, plan.documents)
    log.info("wrote %d documents", len(documents))
    tokenizer = train_tokenizer(documents[:TOKENIZER_DOCUMENTS])
    tokenizer.save_pretrained(folder)
    corpus = encode_documents(documents, tokenizer, cast(int, tokenizer.eos_token_id))
    np.savez(packed, ids=corpus.ids, starts=corpus.starts)
    return tokenizer, corpus


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=50.0)
    parser.add_argument("--steps", type=int, help="number of steps to train, however long they take")
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--work", type=Path, required=True, help="folder for the corpus and checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder for the exported model")
    parser.add_argument("--export-only", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(TRAIN_SEED)
    torch.set_num_threads(2)
    options.work.mkdir(parents=True, exist_ok=True)
    model = OPTForCausalLM(model_config())  # type: ignore[no-untyped-call]
    begin(model)
    plan = Plan(options.steps, options.minutes, options.work, options.documents)
    tokenizer, corpus = prepare(plan)
    log.info("%d tokens, %d parameters", len(corpus.ids), sum(p.numel() for p in model.parameters()))
    if options.export_only:
        load_checkpoint(options.work, model, None)
    else:
        train(model, corpus, plan)
    export(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
