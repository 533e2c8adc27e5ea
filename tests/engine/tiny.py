"""Tiny random models with tokenizers, saved as folders so that tests load them as users do."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from tasks.job import FinishReason
from tasks.settings import EngineKind, Settings
from worker.engine import load_engine
from worker.engine.base import Engine, EngineRequest, RequestOutput, SamplingParams, TokenLogprobs

ENGINES = [EngineKind.VLLM] if find_spec("vllm") else [EngineKind.ECHO, EngineKind.TRANSFORMERS]
"""vLLM has an environment of its own: `make test-vllm`."""

MAX_POSITIONS = 96
EOS_ID = 1
TEXT = "Once upon a time a small fox lived by the river. Жил-был лис. 昔々、狐がいました。"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

DECODER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
}
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "opt": (
        OPTConfig,
        {
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": MAX_POSITIONS,
        },
    ),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": MAX_POSITIONS}),
    "llama": (LlamaConfig, DECODER),
    "qwen2": (Qwen2Config, DECODER),
    "qwen3": (Qwen3Config, {**DECODER, "head_dim": 16}),
}
MORE_CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mistral": (MistralConfig, DECODER),
    "phi": (PhiConfig, DECODER),
}
"""Models for the transformers engine alone. Phi has no native decoder."""


WIDE_DECODER: dict[str, Any] = {"hidden_size": 128, "head_dim": 32}
WIDE: dict[str, dict[str, Any]] = {
    "opt": {"hidden_size": 128, "word_embed_proj_dim": 128},
    "gpt2": {"n_embd": 128},
    "llama": WIDE_DECODER,
    "qwen2": WIDE_DECODER,
    "qwen3": WIDE_DECODER,
    "mistral": WIDE_DECODER,
    "phi": {"hidden_size": 128},
}
"""Options that make heads 32 wide. vLLM needs at least 32, the kernels at least 16."""


def tokenizer() -> Any:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")


def save_model(folder: Path, kind: str = "opt", *, template: bool = True, **changes: Any) -> Path:
    """Saves a random model of an architecture. Weights are large, so that greedy choices are clear."""
    saved = tokenizer()
    if template:
        saved.chat_template = TEMPLATE
    config_class, sizes = {**CONFIGS, **MORE_CONFIGS}[kind]
    config = config_class(
        bos_token_id=EOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=0,
        **{"vocab_size": len(saved), **sizes, **changes},
    )
    torch.manual_seed(7)
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    model.save_pretrained(folder)
    saved.save_pretrained(folder)
    return folder


def settings_for(folder: Path, **changes: Any) -> Settings:
    values = {"engine": EngineKind.TRANSFORMERS, "model_id": str(folder), "device": "cpu", "max_num_seqs": 4}
    return Settings(**{**values, **changes})


def load(
    engine: EngineKind,
    folder: Path,
    kind: str = "opt",
    slots: int = 4,
    *,
    wide: bool = True,
    native_isa: str = "auto",
) -> Engine:
    """Returns an engine with a random model, which is saved in `folder`. The echo engine has no model."""
    if engine is EngineKind.ECHO:
        return load_engine(Settings(engine=engine, max_num_seqs=slots, echo_step_seconds=0))
    save_model(folder, kind, **(WIDE[kind] if wide else {}))
    return load_saved(engine, folder, slots, native_isa=native_isa)


def load_saved(engine: EngineKind, folder: Path, slots: int = 4, *, native_isa: str = "auto") -> Engine:
    """Returns an engine with the model in `folder`."""
    if engine is EngineKind.TRANSFORMERS:
        return load_engine(settings_for(folder, max_num_seqs=slots, native_isa=native_isa))
    # Without compilation, which takes half a minute and makes no difference here.
    settings = settings_for(
        folder,
        engine=engine,
        device="auto",
        max_num_seqs=slots,
        kv_cache_gib=0.25,
        engine_args={"enforce_eager": True},
    )
    return load_engine(settings)


def engine_request(
    request_id: str, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...] = (), **sampling: Any
) -> EngineRequest:
    parameters = {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True}
    return EngineRequest(request_id, prompt_ids, output_ids, SamplingParams(**{**parameters, **sampling}))


class Outputs:
    """Collects what an engine's steps return."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.token_ids: dict[str, list[int]] = {}
        self.finished: dict[str, FinishReason] = {}
        self.errors: dict[str, str | None] = {}
        self.logprobs: dict[str, list[TokenLogprobs]] = {}

    def step(self) -> list[RequestOutput]:
        outputs = self.engine.step()
        for output in outputs:
            assert output.request_id not in self.finished, "a sequence had an output after its last one"
            self.token_ids.setdefault(output.request_id, []).extend(output.token_ids)
            if output.logprobs is not None:
                assert len(output.logprobs) == len(output.token_ids)
                self.logprobs.setdefault(output.request_id, []).extend(output.logprobs)
            if output.finish_reason is not None:
                self.finished[output.request_id] = output.finish_reason
                self.errors[output.request_id] = output.error
        return outputs

    def run(self) -> Outputs:
        """Steps until the batch is empty."""
        for _ in range(10_000):
            if not self.engine.has_unfinished_requests():
                return self
            self.step()
        raise AssertionError("the engine does not come to an end")


def generate(engine: Engine, *requests: EngineRequest) -> list[list[int]]:
    """Runs requests together, and returns their token ids."""
    for request in requests:
        engine.add_request(request)
    outputs = Outputs(engine).run()
    return [outputs.token_ids[request.request_id] for request in requests]
