"""The contract of all engines, on which the worker relies.

One file, because it is one list of promises, and `make test-vllm` runs it for vLLM.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.job import FinishReason
from tasks.request import JobRequest
from tasks.settings import EngineKind
from tests.engine.tiny import ENGINES, TEXT, Outputs, engine_request, generate, load
from worker.engine.base import Engine, EngineRequest

SLOTS = 4


@pytest.fixture(scope="module", params=ENGINES)
def kind(request: pytest.FixtureRequest) -> EngineKind:
    return EngineKind(request.param)


@pytest.fixture(scope="module")
def loaded(kind: EngineKind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = load(kind, tmp_path_factory.mktemp(kind), slots=SLOTS)
    yield engine
    engine.shutdown()


@pytest.fixture
def engine(loaded: Engine) -> Iterator[Engine]:
    """An idle engine. Every test must leave it idle, with all slots free."""
    yield loaded
    is_idle = not loaded.has_unfinished_requests()
    while loaded.has_unfinished_requests():
        loaded.step()  # So that the failure of one test is not that of all tests after it.
    assert is_idle
    for index in range(SLOTS):
        loaded.add_request(request(loaded, f"slot-{index}"))
    for index in range(SLOTS):
        loaded.abort_request(f"slot-{index}")
    assert not loaded.has_unfinished_requests()


def prompt_ids(engine: Engine, text: str = TEXT) -> tuple[int, ...]:
    return engine.encode(JobRequest(prompt=text)).token_ids


def request(engine: Engine, request_id: str, **options: Any) -> EngineRequest:
    text = options.pop("text", TEXT)
    return engine_request(request_id, prompt_ids(engine, text), **options)


SAMPLED: dict[str, Any] = {"temperature": 1.0, "seed": 5, "max_tokens": 20}
PENALIZED: dict[str, Any] = {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.4}


def test_it_says_what_it_is(engine: Engine) -> None:
    assert engine.model
    assert engine.max_num_seqs == SLOTS
    assert engine.max_model_len >= 64


def test_warm_up_leaves_nothing_behind(engine: Engine) -> None:
    engine.warm_up()
    assert not engine.has_unfinished_requests()


def test_a_prompt_is_encoded_as_some_tokens(engine: Engine) -> None:
    for text in ("a", TEXT, " ", "\n \t", "\u200b", "\u0000", "😀"):
        prompt = engine.encode(JobRequest(prompt=text))
        assert prompt.token_ids
        assert isinstance(prompt.decode(prompt.token_ids[-1:]), str)


def test_messages_are_encoded_with_all_their_contents(engine: Engine) -> None:
    messages = [{"role": "system", "content": "brief"}, {"role": "user", "content": "a fox"}]
    token_ids = engine.encode(JobRequest.model_validate({"messages": messages})).token_ids
    shorter = engine.encode(JobRequest.model_validate({"messages": messages[1:]})).token_ids
    assert 0 < len(shorter) < len(token_ids)


def test_text_parts_are_one_text(engine: Engine) -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "fox"}]
    as_parts, as_string = (
        JobRequest.model_validate({"messages": [{"role": "user", "content": content}]})
        for content in (parts, "a fox")
    )
    assert engine.encode(as_parts).token_ids == engine.encode(as_string).token_ids


def test_an_idle_engine_steps_without_output(engine: Engine) -> None:
    assert engine.step() == []


def test_a_sequence_ends_at_max_tokens(engine: Engine) -> None:
    engine.add_request(request(engine, "one", max_tokens=7))
    assert engine.has_unfinished_requests()
    outputs = Outputs(engine).run()
    assert len(outputs.token_ids["one"]) == 7
    assert outputs.finished == {"one": FinishReason.LENGTH}


def test_one_token_is_the_shortest_output(engine: Engine) -> None:
    [token_ids] = generate(engine, request(engine, "one", max_tokens=1))
    assert len(token_ids) == 1


def test_outputs_decode_to_text(engine: Engine) -> None:
    prompt = engine.encode(JobRequest(prompt=TEXT))
    [token_ids] = generate(engine, engine_request("one", prompt.token_ids))
    assert isinstance(prompt.decode(token_ids), str)


def test_every_running_sequence_gains_a_token_in_every_step(engine: Engine) -> None:
    for index in range(SLOTS):
        engine.add_request(request(engine, f"r{index}", max_tokens=40))
    outputs = Outputs(engine)
    while len(outputs.token_ids) < SLOTS:  # vLLM may begin with the first one before the others have come.
        outputs.step()
    assert not outputs.finished
    assert {output.request_id for output in outputs.step()} == {f"r{index}" for index in range(SLOTS)}
    outputs.run()


def test_a_late_sequence_does_not_wait_for_the_early_one(engine: Engine) -> None:
    engine.add_request(request(engine, "early", max_tokens=40))
    outputs = Outputs(engine)
    outputs.step()
    engine.add_request(request(engine, "late", max_tokens=3))
    while "late" not in outputs.finished:
        outputs.step()
    assert "early" not in outputs.finished
    outputs.run()
    assert len(outputs.token_ids["early"]) == 40


def test_other_sequences_change_no_sequence(engine: Engine) -> None:
    requests = [
        request(engine, f"r{index}", text=TEXT[: 5 + 9 * index], max_tokens=4 + 3 * index, **options)
        for index, options in enumerate(
            [{}, {"temperature": 1.0, "seed": 1}, {"temperature": 0.8, "seed": 2, "top_k": 9, "top_p": 0.9}]
        )
    ]
    alone = [generate(engine, each)[0] for each in requests]
    assert generate(engine, *requests) == alone
    assert generate(engine, *reversed(requests)) == alone[::-1]


def test_an_aborted_sequence_leaves_at_once(engine: Engine) -> None:
    engine.add_request(request(engine, "gone"))
    engine.add_request(request(engine, "stays", max_tokens=5))
    outputs = Outputs(engine)
    while "gone" not in outputs.token_ids:  # A step may bring no token, because a prompt may come in chunks.
        outputs.step()
    seen = len(outputs.token_ids["gone"])
    engine.abort_request("gone")
    outputs.run()
    assert len(outputs.token_ids["gone"]) == seen
    assert outputs.finished == {"stays": FinishReason.LENGTH}


def test_a_sequence_aborted_before_its_first_step_gives_nothing(engine: Engine) -> None:
    engine.add_request(request(engine, "gone"))
    engine.abort_request("gone")
    assert not engine.has_unfinished_requests()
    assert engine.step() == []


def test_aborting_an_unknown_or_ended_sequence_is_no_error(engine: Engine) -> None:
    engine.abort_request("never seen")
    generate(engine, request(engine, "ended"))
    engine.abort_request("ended")


def test_an_abort_frees_its_slot_and_its_id(engine: Engine) -> None:
    for index in range(SLOTS):
        engine.add_request(request(engine, f"r{index}", max_tokens=5))
    engine.step()
    engine.abort_request("r1")
    engine.add_request(request(engine, "r1", max_tokens=5))
    outputs = Outputs(engine).run()
    assert len(outputs.token_ids["r1"]) == 5
    assert set(outputs.finished) == {f"r{index}" for index in range(SLOTS)}


def test_more_sequences_than_slots_are_refused(engine: Engine) -> None:
    for index in range(SLOTS):
        engine.add_request(request(engine, f"r{index}"))
    with pytest.raises(ValueError, match="slots"):
        engine.add_request(request(engine, "one too many"))
    outputs = Outputs(engine).run()
    assert set(outputs.finished) == {f"r{index}" for index in range(SLOTS)}


def test_an_id_in_the_batch_is_refused(engine: Engine) -> None:
    engine.add_request(request(engine, "twice", max_tokens=5))
    with pytest.raises(ValueError, match="twice"):
        engine.add_request(request(engine, "twice"))
    outputs = Outputs(engine)
    outputs.step()
    with pytest.raises(ValueError, match="twice"):
        engine.add_request(request(engine, "twice"))
    assert len(outputs.run().token_ids["twice"]) == 5


@pytest.mark.parametrize(
    "options",
    [{"max_tokens": 20}, {"max_tokens": 20, **PENALIZED}, SAMPLED, {**SAMPLED, **PENALIZED, "min_p": 0.02}],
)
@pytest.mark.parametrize("cut", [1, 7, 19])
def test_a_continued_sequence_equals_an_uninterrupted_one(
    engine: Engine, kind: EngineKind, cut: int, options: dict[str, Any]
) -> None:
    [undisturbed] = generate(engine, request(engine, "whole", **options))
    continued = request(engine, "rest", output_ids=tuple(undisturbed[:cut]), **options)
    other = request(engine, "other", text="some company", temperature=1.0, max_tokens=30)
    [_, rest] = generate(engine, other, continued)
    if kind is EngineKind.VLLM and "temperature" in options:
        # vLLM's noise depends on earlier draws, so only greedy sequences continue as they would have.
        assert len(rest) == len(undisturbed) - cut
    else:
        assert rest == undisturbed[cut:]


def test_logprobs_come_with_the_tokens_of_requests_that_ask_for_them(engine: Engine) -> None:
    engine.add_request(request(engine, "none", max_tokens=5))
    engine.add_request(request(engine, "sampled", max_tokens=5, temperature=1.0, logprobs=0))
    engine.add_request(request(engine, "best", max_tokens=5, logprobs=3))
    outputs = Outputs(engine).run()
    assert set(outputs.logprobs) == {"sampled", "best"}
    assert [len(outputs.logprobs[name]) for name in ("sampled", "best")] == [5, 5]
    assert all(one.top == () and one.logprob <= 0 for one in outputs.logprobs["sampled"])
    for token_id, one in zip(outputs.token_ids["best"], outputs.logprobs["best"], strict=True):
        assert one.top[0] == (token_id, one.logprob), "a greedy token is the most probable one"
        assert [value for _, value in one.top] == sorted((value for _, value in one.top), reverse=True)


def test_a_single_token_has_a_text(engine: Engine) -> None:
    prompt = engine.encode(JobRequest(prompt=TEXT))
    assert all(prompt.decode_token(token_id) for token_id in prompt.token_ids)


def test_options_mixed_in_a_batch_concern_their_own_sequence(engine: Engine) -> None:
    options: list[dict[str, Any]] = [PENALIZED, {"min_p": 0.3, **SAMPLED}, {"logprobs": 2}, {}]
    requests = [request(engine, f"r{index}", **each) for index, each in enumerate(options)]
    alone = [generate(engine, each)[0] for each in requests]
    assert generate(engine, *requests) == alone


def test_a_seed_gives_the_same_tokens_again(engine: Engine) -> None:
    [first] = generate(engine, request(engine, "one", **SAMPLED))
    generate(engine, request(engine, "another", temperature=1.5, seed=6))
    [again] = generate(engine, request(engine, "two", **SAMPLED))
    assert again == first


def test_the_largest_seed_is_accepted(engine: Engine) -> None:
    [token_ids] = generate(engine, request(engine, "one", temperature=1.0, seed=2**63 - 1, choice=7))
    assert len(token_ids) == 12


def random_options(dice: random.Random) -> dict[str, Any]:
    """Returns some of the options at random. The others stay off."""
    choices: dict[str, Any] = {
        "temperature": dice.uniform(0, 2),
        "top_k": dice.randint(0, 20),
        "top_p": dice.uniform(0.1, 1),
        "min_p": dice.uniform(0, 1),
        "repetition_penalty": dice.uniform(0.5, 2),
        "presence_penalty": dice.uniform(-2, 2),
        "frequency_penalty": dice.uniform(-2, 2),
        "logprobs": dice.randint(0, 5),
        "seed": dice.randrange(2**63),
    }
    return {name: value for name, value in choices.items() if dice.random() < 0.4}


def test_hundreds_of_sequences_leave_nothing_behind(engine: Engine) -> None:
    """Sequences join, end and are aborted at random. All others end as they should."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice, outputs = random.Random(seed), Outputs(engine)
    wanted: dict[str, int] = {}
    running: set[str] = set()
    started = 0
    while started < 500 or running:
        while started < 500 and len(running) < SLOTS and dice.random() < 0.7:
            request_id, max_tokens = f"r{started}", dice.randint(1, 9)
            text = TEXT[: dice.randint(1, 30)]
            options = random_options(dice)
            engine.add_request(request(engine, request_id, text=text, max_tokens=max_tokens, **options))
            wanted[request_id] = max_tokens
            running.add(request_id)
            started += 1
        if running and dice.random() < 0.1:
            aborted = dice.choice(sorted(running))
            engine.abort_request(aborted)
            running.remove(aborted)
            del wanted[aborted]
        outputs.step()
        running -= set(outputs.finished)
    assert {request_id: len(outputs.token_ids[request_id]) for request_id in wanted} == wanted
    assert {outputs.finished[request_id] for request_id in wanted} == {FinishReason.LENGTH}
