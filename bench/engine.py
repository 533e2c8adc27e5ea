"""Tokens/s of engines alone, without the queue: ours beside those that others would use.

    .venv/bin/python -m bench.engine                     on an otherwise idle machine
    .venv/bin/python -m bench.engine --only ours --streams 1 64

Two models: one of facebook/opt-125m's shape with random weights (12 layers, 768 wide, vocabulary 50272), and
the bundled one. 32-token prompts, 64 new tokens, greedy, all streams at once; the time includes the prompts.
Each engine has a process of its own, all cores, and is warmed up by a run of each size; then rounds are taken
in turns and medians given. vLLM is measured where `make test-vllm` has set up its environment.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from worker.cores import allowed_cores, usable_cores

ROOT = Path(__file__).parents[1]
BUNDLED = ROOT / "worker" / "models" / "bundled"
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
VLLM_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, allowed_cores()[: usable_cores()])),
    "VLLM_CPU_KVCACHE_SPACE": "4",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}
PROMPT_TOKENS, NEW_TOKENS, PAGE_TOKENS = 32, 64, 32
STREAMS = [1, 8, 32, 64]

Generate = Callable[[list[list[int]]], int]
"""Prompts -> new tokens."""


def prompts(count: int) -> list[list[int]]:
    dice = random.Random(count)
    return [[dice.randrange(10, 2000) for _ in range(PROMPT_TOKENS)] for _ in range(count)]


# --- the engines, each in a process of its own


def ours(folder: Path, dtype: str) -> Generate:
    import torch

    from tasks.settings import Settings
    from worker.engine import load_engine
    from worker.engine.base import EngineRequest, SamplingParams

    engine = load_engine(Settings(model_id=str(folder), dtype=dtype, max_num_seqs=max(STREAMS), device="cpu"))
    torch.set_num_threads(usable_cores())  # It would leave a core to the rest of the product.
    sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)

    def generate(batch: list[list[int]]) -> int:
        for index, prompt in enumerate(batch):
            engine.add_request(EngineRequest(str(index), tuple(prompt), (), sampling))
        tokens = 0
        while engine.has_unfinished_requests():
            tokens += sum(len(output.token_ids) for output in engine.step())
        return tokens

    return generate


def _transformers_model(folder: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(usable_cores())
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.eval()


def static_batch(folder: Path, dtype: str) -> Generate:
    import torch

    model = _transformers_model(folder, dtype)

    def generate(batch: list[list[int]]) -> int:
        ids = torch.tensor(batch)
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
        )
        return int(output[:, PROMPT_TOKENS:].numel())

    return generate


def continuous_batching(folder: Path, dtype: str) -> Generate:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = _transformers_model(folder, dtype)
    # It would take most of the machine's memory.
    pages = max(STREAMS) * (PROMPT_TOKENS + NEW_TOKENS) // PAGE_TOKENS
    memory = ContinuousBatchingConfig(
        page_size=PAGE_TOKENS, num_blocks=2 * pages, max_batch_tokens=max(STREAMS) * PROMPT_TOKENS
    )
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0
    )

    def generate(batch: list[list[int]]) -> int:
        outputs = model.generate_batch(batch, generation_config=config, continuous_batching_config=memory)
        return sum(len(output.generated_tokens) for output in outputs.values())

    return generate


def vllm(folder: Path, dtype: str) -> Generate:
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found,unused-ignore]

    llm = LLM(
        model=str(folder),
        dtype=dtype,
        max_model_len=256,
        max_num_seqs=max(STREAMS),
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
    )
    sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True, detokenize=False)

    def generate(batch: list[list[int]]) -> int:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in batch], sampling, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return generate


ENGINES: dict[str, Callable[[Path, str], Generate]] = {
    "generate, static batch": static_batch,
    "transformers' continuous batching": continuous_batching,
    "vLLM": vllm,
    "ours": ours,
}


def serve(name: str, folder: Path, dtype: str) -> None:
    """Answers each number of streams on standard input with tokens/s."""
    generate = ENGINES[name](folder, dtype)
    print("ready", flush=True)
    for line in sys.stdin:
        batch = prompts(int(line))
        began = time.perf_counter()
        tokens = generate(batch)
        seconds = time.perf_counter() - began
        assert tokens == len(batch) * NEW_TOKENS, f"{name}: {tokens} tokens"
        print(json.dumps(tokens / seconds), flush=True)


# --- the stage


class Contender:
    """An engine's processes, which stand still while another one is measured."""

    def __init__(self, name: str, folder: Path, dtype: str) -> None:
        self.name = name
        is_vllm = name == "vLLM"
        python = str(VLLM_PYTHON) if is_vllm else sys.executable
        self._process = subprocess.Popen(
            [python, "-m", "bench.engine", "--serve", name, str(folder), dtype],
            cwd=ROOT,
            env={**os.environ, **(VLLM_ENVIRONMENT if is_vllm else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._expect("ready")
        self._signal(signal.SIGSTOP)

    def rate(self, streams: int) -> float:
        """Tokens/s."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write(f"{streams}\n")
        self._process.stdin.flush()
        rate = float(self._expect(""))
        self._signal(signal.SIGSTOP)
        return rate

    def stop(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _expect(self, start: str) -> str:
        """The next line that is ours; engines print, too."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if (start and line.startswith(start)) or (not start and line[0].isdigit()):
                return line
        raise RuntimeError(f"{self.name} ended with {self._process.wait()}")


def save_opt_125m(folder: Path) -> Path:
    """facebook/opt-125m's shape with random weights, and the bundled tokenizer, which nothing here uses."""
    import torch
    from transformers import AutoModelForCausalLM, OPTConfig

    torch.manual_seed(0)
    config = OPTConfig()  # Its defaults are this model's shape.
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    for file in BUNDLED.glob("*token*.json"):
        shutil.copy(file, folder)
    return folder


def measure(folder: Path, dtype: str, names: Sequence[str], streams: Sequence[int], rounds: int) -> None:
    from bench.stage import print_table  # Not at the top: vLLM's environment lacks what the tests need.

    contenders: list[Contender] = []
    rates: dict[tuple[str, int], list[float]] = {}
    try:
        for name in names:
            contenders.append(Contender(name, folder, dtype))
            for count in streams:
                contenders[-1].rate(count)
        for _ in range(rounds):
            for count in streams:
                for contender in contenders:
                    rates.setdefault((contender.name, count), []).append(contender.rate(count))
    finally:
        for contender in contenders:
            contender.stop()
    medians = {key: statistics.median(values) for key, values in rates.items()}
    others = [name for name in names if name != "ours"]
    columns = [*names, *(f"ours / {name}" for name in others if "ours" in names)]
    rows = []
    for count in streams:
        row = [str(count), *(f"{medians[name, count]:.0f}" for name in names)]
        if "ours" in names:
            row += [f"{medians['ours', count] / medians[name, count]:.2f}" for name in others]
        rows.append(row)
    print_table(["streams, tokens/s", *columns], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--serve", nargs=3, metavar=("ENGINE", "FOLDER", "DTYPE"), help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=list(ENGINES), help="these engines")
    parser.add_argument("--streams", nargs="+", type=int, default=STREAMS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", choices=["opt-125m", "bundled"], help="this model")
    options = parser.parse_args()
    if options.serve:
        name, folder, dtype = options.serve
        serve(name, Path(folder), dtype)
        return
    names = options.only or [name for name in ENGINES if name != "vLLM" or VLLM_PYTHON.exists()]
    with tempfile.TemporaryDirectory(prefix="bench-model-") as temporary:
        if options.model != "bundled":
            print("\nopt-125m's shape, bfloat16")
            measure(save_opt_125m(Path(temporary)), "bfloat16", names, options.streams, options.rounds)
        if options.model != "opt-125m":
            for dtype in ("bfloat16", "float32"):
                print(f"\nthe bundled model, {dtype}")
                measure(BUNDLED, dtype, names, options.streams, options.rounds)


if __name__ == "__main__":
    main()
