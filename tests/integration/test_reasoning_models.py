"""A real worker with a random model that thinks, and OpenAI's SDK: nothing is played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.product import running
from harness.waiting import TIMEOUT_SECONDS
from tests.engine.tiny import TEMPLATE, save_model, tokenizer
from tests.integration.openai_harness import HELLO

REASONING_TOKENS = 5


def save_thinking_model(folder: Path, opening: str, closing: str, *, special: bool) -> None:
    """Saves a model whose template opens the reasoning. It ends it when it has written a few tokens.

    Its last layer is changed: it writes the closing mark where it would have written a certain other token.
    """
    changed = tokenizer()
    changed.add_tokens([opening, closing], special_tokens=special)
    changed.chat_template = f"{TEMPLATE}{{% if add_generation_prompt %}}{opening}{{% endif %}}"
    save_model(folder, "llama", template=False, vocab_size=len(changed))
    changed.save_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    loaded: Any = AutoTokenizer.from_pretrained(folder)
    prompt = loaded.apply_chat_template(
        HELLO, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    output = model.generate(prompt, max_new_tokens=40, do_sample=False)[0, prompt.shape[1] :].tolist()
    late = next(one for place, one in enumerate(output) if output.index(one) == place >= REASONING_TOKENS)
    with torch.no_grad():
        weights = model.lm_head.weight
        weights[loaded.convert_tokens_to_ids(closing)] = 1.01 * weights[late]
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("opening", "closing", "special"), [("<think>", "</think>", False), ("[THINK]", "[/THINK]", True)]
)
def test_a_model_thinks_before_it_answers(tmp_path: Path, opening: str, closing: str, special: bool) -> None:
    save_thinking_model(tmp_path / "model", opening, closing, special=special)
    settings = {"ENGINE": "transformers", "MODEL_ID": str(tmp_path / "model"), "SERVED_MODEL_NAME": "tiny"}
    with (
        running(tmp_path, **settings, DEVICE="cpu", OMP_NUM_THREADS="1") as web,
        OpenAI(base_url=f"{web.url}/v1", api_key="any", timeout=TIMEOUT_SECONDS, max_retries=0) as sdk,
    ):
        options: Any = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 30}
        options["extra_body"] = {"ignore_eos": True}
        raw = sdk.chat.completions.with_raw_response.create(**options)
        message: Any = raw.parse().choices[0].message
        job = httpx.get(f"{web.url}/v1/jobs/{raw.headers['X-Job-ID']}").json()
        text = job["output"][0]["text"]
        reasoning, mark, answer = text.partition(closing)
        assert all((reasoning, mark, answer))
        assert (message.reasoning_content, message.content) == (reasoning, answer)

        deltas: list[Any] = [
            chunk.choices[0].delta for chunk in sdk.chat.completions.create(**options, stream=True)
        ]
        assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == reasoning
        assert "".join(delta.content or "" for delta in deltas) == answer

        made = sdk.responses.create(model="tiny", input="hello", temperature=0, max_output_tokens=30)
        assert made.output[0].type == "reasoning"
        assert made.output[0].content is not None
        assert made.output[0].content[0].text == reasoning
        native = httpx.post(
            f"{web.url}/v1/jobs",
            json={"messages": HELLO, "temperature": 0, "max_tokens": 30, "ignore_eos": True},
            headers={"Prefer": "wait=30"},
        ).json()
        assert native["output"][0]["text"] == (text.replace(closing, "") if special else text)
