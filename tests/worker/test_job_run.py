"""A job on a worker, without Redis: the requests that it passes to the engine, and its writes."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tasks.errors import PromptTooLongError
from tasks.job import FinishReason, Status
from tasks.leases import Claim, Outcome, Write
from tasks.log import Entry, StatusEntry, TokenEntry, parse_entry
from tasks.request import SamplingOptions, parse_request
from tasks.settings import EngineKind, Settings
from worker.engine.base import EngineRequest, RequestOutput
from worker.engine.echo import EchoEngine
from worker.job_run import JobRun


@pytest.fixture
def engine() -> EchoEngine:
    return EchoEngine(Settings(engine=EngineKind.ECHO, max_num_seqs=8, max_model_len=20, echo_step_seconds=0))


def job_run(entries: list[Entry] | None = None, **body: Any) -> JobRun:
    request = parse_request({"prompt": "a b c", "max_tokens": 6, **body})
    log = [entry.encode() for entry in entries or [StatusEntry(1)]]
    return JobRun(Claim("job_1", "token", request, False, log))


def step(run: JobRun, engine: EchoEngine) -> list[str]:
    """Runs one step. Returns the ids of sequences that the engine must abort."""
    outputs = engine.step()
    return [output.request_id for output in outputs if run.push(output)]


def entries_of(write: Write) -> list[TokenEntry]:
    entries = [parse_entry(entry) for entry in write.entries]
    assert all(isinstance(entry, TokenEntry) for entry in entries)
    return cast("list[TokenEntry]", entries)


def start(run: JobRun, engine: EchoEngine) -> list[EngineRequest]:
    requests = run.begin(run.prepare(engine))
    for request in requests:
        engine.add_request(request)
    return requests


def test_each_step_becomes_an_entry(engine: EchoEngine) -> None:
    run = job_run()
    start(run, engine)
    step(run, engine)
    write = run.next_write()
    assert (write.base, write.prompt_tokens, write.outcome) == (1, 3, None)
    assert entries_of(write) == [TokenEntry(0, (0,), "a")]
    run.flushed_up_to(2)
    step(run, engine)
    step(run, engine)
    assert entries_of(run.next_write()) == [TokenEntry(0, (1, 2), " b c")]


def test_every_sampling_option_reaches_the_engine(engine: EchoEngine) -> None:
    """Options are passed on by their names, and no code on the way lists them."""
    options: dict[str, Any] = {
        "n": 1,
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "stop": ["z"],
        "seed": 5,
        "logprobs": 2,
        "ignore_eos": True,
    }
    assert options.keys() == SamplingOptions.model_fields.keys(), "give a new option a value here"
    run = JobRun(Claim("job_1", "token", parse_request({"prompt": "a", **options}), False, ['["s",1]']))
    [sequence] = run.begin(run.prepare(engine))
    assert {name: getattr(sequence.sampling, name) for name in options} == options


@pytest.mark.parametrize("is_drawn", [False, True])
def test_the_engine_knows_whether_the_client_gave_the_seed(engine: EchoEngine, is_drawn: bool) -> None:
    request = parse_request({"prompt": "a", "seed": 5, "n": 2})
    run = JobRun(Claim("job_1", "token", request, False, ['["s",1]'], is_seed_drawn=is_drawn))
    sampling = [sequence.sampling for sequence in run.begin(run.prepare(engine))]
    assert [(one.seed, one.is_seed_drawn) for one in sampling] == [(5, is_drawn)] * 2


def test_logprobs_are_logged_with_their_tokens(engine: EchoEngine) -> None:
    run = job_run(logprobs=1)
    start(run, engine)
    step(run, engine)
    step(run, engine)
    [entry] = entries_of(run.next_write())
    assert entry.logprobs == [["a", 0.0, [["a", 0.0]]], [" b", 0.0, [[" b", 0.0]]]]
    run.flushed_up_to(2)
    step(run, engine)
    [entry] = entries_of(run.next_write())
    assert entry.logprobs == [[" c", 0.0, [[" c", 0.0]]]]


def test_logprobs_are_logged_only_on_request(engine: EchoEngine) -> None:
    run = job_run()
    start(run, engine)
    step(run, engine)
    assert [entry.logprobs for entry in entries_of(run.next_write())] == [None]


def test_the_last_entry_carries_the_end(engine: EchoEngine) -> None:
    run = job_run(max_tokens=2)
    start(run, engine)
    step(run, engine)
    step(run, engine)
    write = run.next_write()
    assert entries_of(write) == [TokenEntry(0, (0, 1), "a b", FinishReason.LENGTH)]
    assert write.outcome == Outcome(Status.COMPLETED, completion_tokens=2)


def test_choices_are_sequences_of_their_own(engine: EchoEngine) -> None:
    run = job_run(n=3, max_tokens=1)
    assert [request.sampling.choice for request in start(run, engine)] == [0, 1, 2]
    step(run, engine)
    assert [entry.choice for entry in entries_of(run.next_write())] == [0, 1, 2]


def test_an_attempt_continues_where_the_log_ends(engine: EchoEngine) -> None:
    log: list[Entry] = [StatusEntry(1), TokenEntry(0, (0, 1, 2, 3), "a b c a"), StatusEntry(2)]
    run = job_run(log)
    (request,) = start(run, engine)
    assert request.output_ids == (0, 1, 2, 3)
    step(run, engine)
    step(run, engine)
    write = run.next_write()
    assert write.base == 3
    assert entries_of(write) == [TokenEntry(0, (4, 5), " b c", FinishReason.LENGTH)]


def test_ended_choices_of_an_earlier_attempt_do_not_run_again(engine: EchoEngine) -> None:
    ended = TokenEntry(0, (0, 1, 2, 3, 4, 5), "a b c a b c", FinishReason.LENGTH)
    run = job_run([StatusEntry(1), ended, StatusEntry(2)], n=2)
    assert [request.sampling.choice for request in start(run, engine)] == [1]


def test_a_job_killed_between_its_last_token_and_its_end_only_ends(engine: EchoEngine) -> None:
    ended = TokenEntry(0, (0, 1, 2, 3, 4, 5), "a b c a b c", FinishReason.LENGTH)
    run = job_run([StatusEntry(1), ended, StatusEntry(2)])
    assert start(run, engine) == []
    write = run.next_write()
    assert (write.base, entries_of(write), write.outcome) == (
        3,
        [],
        Outcome(Status.COMPLETED, completion_tokens=6),
    )


def test_a_stop_string_ends_the_choice_and_shows_nothing_of_itself(engine: EchoEngine) -> None:
    run = job_run(stop=" c a")
    (request,) = start(run, engine)
    aborted: list[str] = []
    while not run.outcome:
        aborted += step(run, engine)
    assert aborted == [request.request_id]
    text = "".join(entry.text for entry in entries_of(run.next_write()) if isinstance(entry, TokenEntry))
    assert text == "a b"
    assert entries_of(run.next_write())[-1].finish_reason is FinishReason.STOP


def test_the_end_of_sequence_is_logged_but_not_shown(engine: EchoEngine) -> None:
    """A model's end may be an ordinary token with a text. Held-back text before it is shown."""
    run = job_run(stop=" b c b")
    (request,) = start(run, engine)
    run.push(RequestOutput(request.request_id, (0, 1, 2), FinishReason.STOP))
    assert entries_of(run.next_write()) == [TokenEntry(0, (0, 1, 2), "a b", FinishReason.STOP)]
    assert run.outcome == Outcome(Status.COMPLETED)


def test_held_back_ids_are_logged_with_the_text_that_follows(engine: EchoEngine) -> None:
    run = job_run(stop=" b c b")
    start(run, engine)
    entries: list[TokenEntry] = []
    for log_length in range(2, 6):
        step(run, engine)
        entries = [*entries_of(run.next_write())]
        if entries:
            run.flushed_up_to(log_length)
            break
    assert entries == [TokenEntry(0, (0,), "a")]
    for _ in range(2):
        step(run, engine)
        assert entries_of(run.next_write()) == []
    step(run, engine)
    assert entries_of(run.next_write()) == [TokenEntry(0, (1, 2, 3), " b c a")]


def test_cancel_keeps_the_text_including_held_back_text(engine: EchoEngine) -> None:
    run = job_run(stop=" b c b")
    start(run, engine)
    step(run, engine)
    step(run, engine)
    run.cut_off(FinishReason.CANCELLED, Outcome(Status.CANCELLED))
    write = run.next_write()
    assert entries_of(write) == [TokenEntry(0, (0, 1), "a b", FinishReason.CANCELLED)]
    assert write.outcome == Outcome(Status.CANCELLED, completion_tokens=2)
    assert step(run, engine) == []
    assert run.next_write() == write


def test_entries_that_redis_lost_are_sent_again(engine: EchoEngine) -> None:
    run = job_run()
    start(run, engine)
    for log_length in (2, 3, 4):
        step(run, engine)
        run.next_write()
        run.flushed_up_to(log_length)
    assert not run.has_news()
    run.flushed_up_to(2)
    assert run.has_news()
    write = run.next_write()
    assert (write.base, [entry.text for entry in entries_of(write)]) == (2, [" b", " c"])


def test_a_long_backlog_is_sent_in_parts_and_the_end_with_the_last(engine: EchoEngine) -> None:
    engine = EchoEngine(Settings(engine=EngineKind.ECHO, max_model_len=5000, echo_step_seconds=0))
    run = job_run(max_tokens=2500)
    start(run, engine)
    length = 1
    while not run.outcome:
        step(run, engine)
        run.next_write()  # One entry for each step, as if each had been sent and lost.
    sizes = []
    while True:
        write = run.next_write()
        sizes.append(len(entries_of(write)))
        length += len(entries_of(write))
        run.flushed_up_to(length)
        if write.outcome:
            break
    assert sizes == [1000, 1000, 500]


def test_one_failing_choice_fails_the_job(engine: EchoEngine) -> None:
    run = job_run(n=2)
    first, _ = start(run, engine)
    run.push(RequestOutput(first.request_id, (), FinishReason.ERROR, "not a number"))
    assert run.outcome
    assert (run.outcome.status, run.outcome.error and run.outcome.error.message) == (
        Status.FAILED,
        "not a number",
    )


def test_output_is_cut_to_the_models_length(engine: EchoEngine) -> None:
    (request,) = start(job_run(max_tokens=100), engine)
    assert request.sampling.max_tokens == 17


def test_another_workers_longer_output_is_not_added_to(engine: EchoEngine) -> None:
    """Workers of one model may have different lengths. The previous one allowed more tokens."""
    log: list[Entry] = [
        StatusEntry(1),
        TokenEntry(0, tuple(range(18)), "a b c" + " a b c" * 5),
        StatusEntry(2),
    ]
    run = job_run(log, max_tokens=30)
    assert start(run, engine) == []
    assert run.next_write().outcome == Outcome(Status.COMPLETED, completion_tokens=18)
    assert entries_of(run.next_write()) == [TokenEntry(0, (), "", FinishReason.LENGTH)]


def test_a_prompt_that_leaves_no_room_is_refused_with_the_numbers(engine: EchoEngine) -> None:
    with pytest.raises(PromptTooLongError, match=r"20 tokens.* 20"):
        job_run(prompt="w " * 20).prepare(engine)
