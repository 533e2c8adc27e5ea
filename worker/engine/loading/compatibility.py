"""Refuses models that ENGINE=transformers cannot run: their output would be wrong without an error."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.peft_utils import find_adapter_config_file

from tasks.errors import EngineError
from tasks.settings import Settings


def check_source(source: str, model_id: str) -> None:
    """Raises EngineError where a folder or hub id holds anything but a plain checkpoint.

    Raises what transformers raises where there is no configuration or an invalid one.
    """
    check_no_adapter(source, model_id)
    config, _ = PreTrainedConfig.get_config_dict(source)
    _check_code(config, model_id)
    _check_quantization(config, model_id)
    AutoConfig.from_pretrained(source, trust_remote_code=False)


def has_sdpa(source: str) -> bool:
    """Whether transformers can run a model with torch's `scaled_dot_product_attention`."""
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return bool(getattr(model_class, "_supports_sdpa", True))


def check_no_adapter(source: str, model_id: str) -> None:
    """Raises EngineError for an adapter. Without peft, transformers loads the base model and ignores it."""
    if find_adapter_config_file(source) is not None:
        raise EngineError(
            f"MODEL_ID={model_id} is a LoRA adapter (it has an adapter_config.json), which is not run here; "
            "merge it into its base model (peft's merge_and_unload) and serve the result"
        )


def _check_code(config: dict[str, Any], model_id: str) -> None:
    """Refuses code of the model's own. transformers would ask on the terminal whether to run it."""
    code: dict[str, str] = config.get("auto_map") or {}
    if code and config.get("model_type") not in CONFIG_MAPPING:
        name = code.get("AutoModelForCausalLM") or next(iter(code.values()))
        raise EngineError(
            f"MODEL_ID={model_id} comes with code of its own ({name}), which is not run here; "
            "models are served whose architecture transformers itself has"
        )


def _check_quantization(config: dict[str, Any], model_id: str) -> None:
    """Refuses quantized models: transformers ignores unknown methods, and others have no plain weights."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for part in parts:
        quantization = part.get("quantization_config") or part.get("compression_config")
        if quantization:
            method = quantization.get("quant_method") or quantization.get("quant_algo") or "an unnamed method"
            raise EngineError(
                f"MODEL_ID={model_id} is quantized ({method}), which ENGINE=transformers does not run; "
                "serve the model's unquantized checkpoint, or this one with ENGINE=vllm"
            )


def check_forward(model: PreTrainedModel, settings: Settings) -> None:
    """Refuses models that derive positions from the mask: in a ragged batch they would be silently wrong."""
    parameters = inspect.signature(model.forward).parameters
    missing = [n for n in ("position_ids", "past_key_values", "logits_to_keep") if n not in parameters]
    if missing or getattr(model.config, "alibi", False):
        raise EngineError(
            f"MODEL_ID={settings.model_id}: ENGINE=transformers cannot run this {type(model).__name__}: "
            + (f"it takes no {missing[0]}" if missing else "it places tokens by ALiBi")
        )
