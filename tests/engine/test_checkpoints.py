"""A checkpoint that is not all of its model is refused at the start, in one line that names what is wrong."""

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
from worker.engine.transformers import TransformersEngine

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
    """Why a model is not served: one line."""
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
    """GPT-2's own checkpoint has no `transformer.` in front, no head, and buffers of old."""
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
