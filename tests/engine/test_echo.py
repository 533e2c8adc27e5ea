"""ENGINE=echo repeats the prompt's words, one token each."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tasks.errors import SettingsError
from tasks.request import JobRequest
from tasks.settings import EngineKind, Settings
from tests.engine.tiny import engine_request, generate
from worker.engine import load_engine
from worker.engine.base import Prompt
from worker.engine.echo import EchoEngine
from worker.engine.text.detokenizer import Detokenizer


def echo(**changes: object) -> EchoEngine:
    return EchoEngine(Settings.model_validate({"engine": EngineKind.ECHO, "echo_step_seconds": 0, **changes}))


def text_of(prompt: Prompt, token_ids: list[int]) -> str:
    detokenizer = Detokenizer(prompt.token_ids, prompt.decode, [])
    return "".join([*(detokenizer.push([token_id]) for token_id in token_ids), detokenizer.finish()])


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "text"),
    [
        ("one two  three\n", 3, "one two three"),
        ("one two three", 7, "one two three one two three one"),
        ("word", 3, "word word word"),
        ("猫 \ufffd 犬", 5, "猫 \ufffd 犬 猫 \ufffd"),
        (" \n", 1, ""),
    ],
)
def test_the_prompts_words_come_back_until_max_tokens(prompt: str, max_tokens: int, text: str) -> None:
    engine = echo()
    encoded = engine.encode(JobRequest(prompt=prompt))
    [token_ids] = generate(engine, engine_request("one", encoded.token_ids, max_tokens=max_tokens))
    assert text_of(encoded, token_ids) == text


def test_with_a_tokenizer_its_tokens_come_back() -> None:
    engine = echo(echo_tokenizer=True)
    encoded = engine.encode(JobRequest(prompt=" to and fro"))
    length = len(encoded.token_ids)
    request = engine_request(
        "one", encoded.token_ids, output_ids=encoded.token_ids[:1], max_tokens=2 * length
    )
    [token_ids] = generate(engine, request)
    assert token_ids == [*encoded.token_ids, *encoded.token_ids][1:]
    assert text_of(encoded, token_ids).endswith(" to and fro")


def test_messages_are_echoed_in_their_order() -> None:
    messages = [{"role": "system", "content": "a b"}, {"role": "user", "content": "c"}]
    prompt = echo().encode(JobRequest.model_validate({"messages": messages}))
    assert text_of(prompt, [0, 1, 2]) == "a b c"


def test_choices_are_equal() -> None:
    requests = [engine_request(f"r{choice}", (0, 1), choice=choice, seed=3) for choice in range(3)]
    first, *others = generate(echo(), *requests)
    assert others == [first, first]


def test_a_word_is_known_by_its_position() -> None:
    [token_ids] = generate(echo(), engine_request("one", (0, 1), output_ids=(0, 1, 2), max_tokens=6))
    assert token_ids == [3, 4, 5]


def test_its_length_counts_words() -> None:
    assert echo().max_model_len == 4096
    assert echo(max_model_len=9).max_model_len == 9
    assert len(echo().encode(JobRequest(prompt="three short words")).token_ids) == 3


def test_a_step_takes_its_time_once_for_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 100.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(round(seconds, 6))
        now += seconds

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("time.sleep", sleep)
    engine = echo(echo_step_seconds=0.5)
    for request_id in ("a", "b", "c"):
        engine.add_request(engine_request(request_id, (0, 1), max_tokens=9))
    engine.step()
    engine.step()
    assert slept == [0.5]
    now += 0.2
    engine.step()
    assert slept == [0.5, 0.3], "time between steps does not slow it down"
    now += 60
    engine.step()
    engine.step()
    assert slept == [0.5, 0.3, 0.5], "no burst of steps follows a late one"


def test_it_needs_neither_torch_nor_transformers() -> None:
    program = (
        "import sys; from tasks.settings import Settings; from worker.engine import load_engine;"
        "import worker.engine.text.detokenizer;"
        "load_engine(Settings(engine='echo'));"
        "print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


@pytest.mark.skipif(find_spec("vllm") is not None, reason="here vLLM is installed")
def test_an_engine_that_is_not_installed_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="ENGINE=vllm: vLLM is not installed here"):
        load_engine(Settings(engine=EngineKind.VLLM))


def test_without_a_tokenizer_the_words_of_token_ids_are_their_numbers() -> None:
    prompt = echo().encode(JobRequest(prompt_token_ids=[7, 8]))
    assert text_of(prompt, [0, 1, 2]) == "7 8 7"
