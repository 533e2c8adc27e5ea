"""A checkpoint that lacks a part of its model is refused at the start, in one line that says why."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.errors import EngineError
from tests.engine.tiny import engine_request, generate, save_model, settings_for
from worker.engine.transformers.engine import TransformersEngine

Tensors = dict[str, Tensor]


def change_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def without(*endings: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: one for name, one in tensors.items() if not name.endswith(endings)}


def change_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))


def refusal(folder: Path, **settings: Any) -> str:
    """Returns the error of a model that is refused, which must be one line."""
    with pytest.raises(EngineError) as caught:
        TransformersEngine(settings_for(folder, **settings))
    assert "\n" not in caught.value.detail
    assert caught.value.detail.startswith(f"MODEL_ID={folder}")
    return caught.value.detail


def test_a_missing_projection_is_named(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    change_tensors(tmp_path, without("layers.1.self_attn.k_proj.weight"))
    assert refusal(tmp_path).endswith("lacks 1 of its 21 tensors: model.layers.1.self_attn.k_proj.weight")


def test_a_missing_head_that_is_not_tied_is_named(tmp_path: Path) -> None:
    save_model(tmp_path, "llama", tie_word_embeddings=False)
    change_tensors(tmp_path, without("lm_head.weight"))
    assert "lm_head.weight" in refusal(tmp_path)


def test_names_under_another_prefix_are_all_missing(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    change_tensors(tmp_path, lambda tensors: {f"policy.{name}": one for name, one in tensors.items()})
    reason = refusal(tmp_path)
    assert "lacks 21 of its 21 tensors: lm_head.weight, model.embed_tokens.weight," in reason
    assert reason.endswith("and 18 more; it has 21 others, such as policy.lm_head.weight")


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    change_tensors(
        tmp_path,
        lambda tensors: {
            **tensors,
            "model.norm.weight": torch.ones(31),
            "lm_head.weight": tensors["lm_head.weight"],
        },
    )
    assert "model.norm.weight has the shape [31], the model's is [32]" in refusal(tmp_path)


@pytest.mark.parametrize("left_out", ["lm_head.weight", "embed_tokens.weight"])
def test_a_tied_head_needs_one_of_its_two_names(tmp_path: Path, left_out: str) -> None:
    save_model(tmp_path, "llama", tie_word_embeddings=True)
    request = engine_request("one", (5, 6, 7))
    expected = generate(TransformersEngine(settings_for(tmp_path)), request)

    def keep_one(tensors: Tensors) -> Tensors:
        shared = tensors["model.embed_tokens.weight"]
        both = {**tensors, "lm_head.weight": shared, "model.embed_tokens.weight": shared.clone()}
        return without(left_out)(both)

    change_tensors(tmp_path, keep_one)
    assert generate(TransformersEngine(settings_for(tmp_path)), request) == expected


def test_the_base_models_names_are_enough(tmp_path: Path) -> None:
    """GPT-2's original checkpoint has names without `transformer.`, no head, and obsolete buffers."""
    save_model(tmp_path, "gpt2")
    request = engine_request("one", (5, 6, 7))
    expected = generate(TransformersEngine(settings_for(tmp_path)), request)

    def as_openai_wrote(tensors: Tensors) -> Tensors:
        stripped = {name.removeprefix("transformer."): one for name, one in tensors.items()}
        return {**stripped, "h.0.attn.bias": torch.ones(1, 1, 4, 4)}

    change_tensors(tmp_path, as_openai_wrote)
    assert generate(TransformersEngine(settings_for(tmp_path)), request) == expected


def test_unexpected_tensors_are_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path, "llama")
    change_tensors(tmp_path, lambda tensors: {**tensors, **{f"extra.{n}": torch.ones(1) for n in range(5)}})
    with caplog.at_level(logging.WARNING):
        TransformersEngine(settings_for(tmp_path))
    [line] = [record.getMessage() for record in caplog.records if "extra" in record.getMessage()]
    assert "\n" not in line
    assert "5 tensors of the checkpoint" in line
    assert "extra.0, extra.1, extra.2 and 2 more" in line
    assert "extra" not in capfd.readouterr().err


@pytest.mark.parametrize("is_complete", [True, False], ids=["beside a whole model", "alone"])
def test_an_adapter_is_refused(tmp_path: Path, is_complete: bool) -> None:
    """Without peft, transformers would load the base model and leave out the adapter."""
    if is_complete:
        save_model(tmp_path, "llama")
    change_json(tmp_path / "adapter_config.json", peft_type="LORA", base_model_name_or_path="nobody/nothing")
    assert "is a LoRA adapter" in refusal(tmp_path)
    assert "merge_and_unload" in refusal(tmp_path)


def test_a_checkpoint_of_wrapped_layers_is_refused(tmp_path: Path) -> None:
    """peft's wrapper saves them without merging: a base layer, and an adapter that would be dropped."""
    save_model(tmp_path, "llama")

    def wrapped(tensors: Tensors) -> Tensors:
        name = "model.layers.0.self_attn.q_proj"
        base = {f"{name}.base_layer.weight": tensors.pop(f"{name}.weight")}
        return {**tensors, **base, f"{name}.lora_A.default.weight": torch.ones(2, 32)}

    change_tensors(tmp_path, wrapped)
    reason = refusal(tmp_path)
    assert "lacks 1 of its 21 tensors: model.layers.0.self_attn.q_proj.weight" in reason
    assert "such as model.layers.0.self_attn.q_proj.base_layer.weight" in reason


@pytest.mark.parametrize(
    ("quantization", "name"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq"),
        ({"quant_method": "modelopt"}, "modelopt"),
        ({"quant_algo": "FP8"}, "FP8"),
        ({"bits": 4}, "an unnamed method"),
    ],
    ids=str,
)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_quantized_checkpoint_is_refused(
    tmp_path: Path, quantization: dict[str, Any], name: str, key: str
) -> None:
    """transformers ignores methods that it does not know, and would read the numbers without their scales."""
    save_model(tmp_path, "llama")
    change_json(tmp_path / "config.json", **{key: quantization})
    assert f"is quantized ({name}), which ENGINE=transformers does not run" in refusal(tmp_path)


def test_a_quantized_part_of_a_model_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    change_json(tmp_path / "config.json", text_config={"quantization_config": {"quant_method": "fp8"}})
    assert "is quantized (fp8)" in refusal(tmp_path)


def test_a_configuration_without_quantization_is_served(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    change_json(tmp_path / "config.json", quantization_config=None)
    assert generate(TransformersEngine(settings_for(tmp_path)), engine_request("one", (5, 6)))


@pytest.fixture
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if transformers asks on a terminal whether to run a model's own code."""

    def asked(question: str = "") -> str:
        pytest.fail(f"a terminal was asked: {question}")

    monkeypatch.setattr("builtins.input", asked)


@pytest.mark.usefixtures("_no_terminal")
def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    code = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    change_json(tmp_path / "config.json", model_type="own", auto_map=code)
    (tmp_path / "own.py").write_text("raise SystemExit('this code must not run')")
    assert "comes with code of its own (own.OwnForCausalLM), which is not run here" in refusal(tmp_path)


@pytest.mark.usefixtures("_no_terminal")
def test_a_tokenizer_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    (tmp_path / "own.py").write_text("raise SystemExit('this code must not run')")
    change_json(
        tmp_path / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]},
    )
    TransformersEngine(settings_for(tmp_path))  # Its tokenizer.json needs no code.
    (tmp_path / "tokenizer.json").unlink()
    assert "custom code" in refusal(tmp_path)


@pytest.mark.usefixtures("_no_terminal")
def test_a_models_own_code_does_not_matter_if_transformers_has_the_model(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    request = engine_request("one", (5, 6, 7))
    expected = generate(TransformersEngine(settings_for(tmp_path)), request)
    change_json(tmp_path / "config.json", auto_map={"AutoModelForCausalLM": "own.OwnForCausalLM"})
    (tmp_path / "own.py").write_text("raise SystemExit('this code must not run')")
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text("raise SystemExit('this code must not run')")
    assert generate(TransformersEngine(settings_for(tmp_path)), request) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": "two"},
        {"hidden_size": 31},
        {"num_attention_heads": 0},
        {"rope_parameters": {"rope_type": "spiral"}},
        {"hidden_act": "wishful"},
        {"model_type": "nobody-has-this"},
    ],
    ids=str,
)
def test_a_wrong_configuration_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_model(tmp_path, "llama")
    change_json(tmp_path / "config.json", **changes)
    refusal(tmp_path)
