"""The engines that `bench.engine` measures, one module per family. Each imports its library on first use."""

from __future__ import annotations

from bench.engines import ctranslate2, llama_cpp, ours, transformers, vllm
from bench.engines.base import Engine

ENGINES: dict[str, Engine] = {
    "generate": transformers.STATIC_BATCH,
    "continuous": transformers.CONTINUOUS_BATCHING,
    "vllm": vllm.VLLM,
    "ctranslate2": ctranslate2.CTRANSLATE2,
    "llama.cpp": llama_cpp.LLAMA_CPP,
    "ours": ours.OURS,
}
"""Name on the command line -> engine."""
