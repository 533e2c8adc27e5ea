"""vLLM's build for CPUs, in the environment that `make test-vllm` makes."""

from __future__ import annotations

from pathlib import Path

from bench.engines.base import NEW_TOKENS, STREAMS, VLLM_VENV, Engine, Generate
from worker.cores import allowed_cores, usable_cores


def load(folder: Path, precision: str) -> Generate:
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found,unused-ignore]

    llm = LLM(
        model=str(folder),
        dtype=precision,
        max_model_len=256,
        max_num_seqs=max(STREAMS),
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
    )

    def generate(batch: list[list[int]], temperature: float) -> list[list[int]]:
        sampling = SamplingParams(
            max_tokens=NEW_TOKENS, temperature=temperature, ignore_eos=True, detokenize=False
        )
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in batch], sampling, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return generate


VLLM = Engine(
    "vLLM",
    load,
    ("float32", "bfloat16"),
    python=VLLM_VENV / "bin" / "python",
    set_up="make test-vllm",
    environment={
        # By default vLLM leaves one core unused.
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, allowed_cores()[: usable_cores()])),
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    },
)
