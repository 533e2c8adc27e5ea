"""The Python client against the whole product: calls, and streams that survive failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import (
    Client,
    ClientError,
    ConflictError,
    Event,
    InvalidRequestError,
    NotFoundError,
    UnauthorizedError,
    WaitTimeoutError,
)
from harness.product import Web, running

pytest_plugins = ["tests.integration.product_fixtures"]

LONG = 3000
"""Tokens of a job that takes half a minute."""


@pytest.fixture
def client(product: Web) -> Iterator[Client]:
    with Client(product.url) as opened:
        yield opened


def text_of(events: list[Event]) -> str:
    return "".join(event["text"] for event in events if event["type"] == "token")


def assert_whole(events: list[Event], after: int = 0) -> None:
    assert [event["seq"] for event in events] == list(range(after + 1, after + 1 + len(events)))
    assert events[-1]["type"] == "done"


def test_a_job_from_submit_to_its_end(client: Client) -> None:
    job = client.submit("once upon a time", max_tokens=6)
    events = list(client.stream(job.id))
    assert_whole(events)
    assert text_of(events) == "once upon a time once upon"
    assert events[-1]["job"]["usage"]["completion_tokens"] == 6
    assert not events[-1]["job"].keys() & {"request", "output"}
    ended = client.wait(job.id)
    assert ended.is_ended
    assert (ended.status, ended.text, ended.error) == ("completed", text_of(events), None)


def test_logprobs_of_a_job_and_of_its_events(client: Client) -> None:
    job_id = client.submit("one two", max_tokens=3, logprobs=1).id
    expected = [
        {"token": token, "logprob": 0.0, "top_logprobs": [{"token": token, "logprob": 0.0}]}
        for token in ("one", " two", " one")
    ]
    events = [event for event in client.stream(job_id) if event["type"] == "token"]
    assert [one for event in events for one in event["logprobs"]] == expected
    assert client.get(job_id).fields["output"][0]["logprobs"] == expected


def test_a_stream_resumes_after_the_given_event(client: Client) -> None:
    job = client.submit("one two three", max_tokens=3)
    client.wait(job.id)
    assert_whole(list(client.stream(job.id, after=2)), after=2)
    last = list(client.stream(job.id))[-1]["seq"]
    assert list(client.stream(job.id, after=last)) == []


def test_a_stream_outlives_killed_web_processes(client: Client, product: Web) -> None:
    job = client.submit("tick tock", max_tokens=400)
    events: list[Event] = []
    for event in client.stream(job.id):
        events.append(event)
        if event["seq"] in (50, 150):
            product.kill()
            threading.Thread(target=product.start).start()
    assert_whole(events)
    assert text_of(events).split() == ["tick", "tock"] * 200


def test_a_stream_outlives_an_orderly_restart(client: Client, product: Web) -> None:
    job = client.submit("tick tock", max_tokens=300)
    events: list[Event] = []
    for event in client.stream(job.id):
        events.append(event)
        if event["seq"] == 50:
            product.stop()
            threading.Thread(target=product.start).start()
    assert_whole(events)
    assert text_of(events).split() == ["tick", "tock"] * 150


def test_a_call_waits_for_a_server_that_is_about_to_start(client: Client, product: Web) -> None:
    product.kill()
    starting = threading.Thread(target=product.start)
    starting.start()
    assert client.wait(client.submit("late", max_tokens=1).id).text == "late"
    starting.join()


def test_cancel_keeps_the_partial_text(client: Client) -> None:
    job = client.submit("tick tock", max_tokens=LONG)
    events = client.stream(job.id)
    while next(events)["type"] != "token":
        pass
    client.cancel(job.id)
    *_, done = events
    assert done["job"]["status"] == "cancelled"
    assert client.get(job.id).text.startswith("tick")


def test_a_job_that_did_not_complete_is_retried_as_a_new_one(client: Client) -> None:
    job = client.submit("again", max_tokens=LONG)
    client.cancel(job.id)
    client.wait(job.id)
    again = client.retry(job.id)
    assert again.id != job.id
    assert again.fields["request"]["prompt"] == "again"
    client.cancel(again.id)


def test_lists_page_by_page_and_deletes(client: Client) -> None:
    ids = [client.submit(f"job {n}", max_tokens=1).id for n in range(3)]
    for job_id in ids:
        client.wait(job_id)
    first = client.list(limit=2)
    assert [job.id for job in first.jobs] == [ids[2], ids[1]]
    assert first.has_more
    assert client.list(limit=1, after=ids[1]).jobs[0].id == ids[0]
    assert {job.status for job in client.list(status="completed").jobs} == {"completed"}
    client.delete(ids[0])
    with pytest.raises(NotFoundError):
        client.get(ids[0])


def test_wait_ends_at_its_time_limit(client: Client) -> None:
    job = client.submit("tick tock", max_tokens=LONG)
    with pytest.raises(WaitTimeoutError, match=job.id):
        client.wait(job.id, timeout=0.2)
    with pytest.raises(ConflictError):
        client.delete(job.id)
    client.cancel(job.id)


def test_refusals_say_what_is_wrong(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="max_tokens") as refusal:
        client.submit("hello", max_tokens=0)
    assert refusal.value.status == 422
    assert [error["field"] for error in refusal.value.errors] == ["max_tokens"]
    with pytest.raises(InvalidRequestError, match="after"):
        list(client.stream(client.submit("hello", max_tokens=1).id, after=-1))
    with pytest.raises(NotFoundError):
        list(client.stream("job_none"))
    with pytest.raises(ClientError, match="http://"):
        Client("localhost:8000")


def test_with_api_keys_the_key_opens_calls_and_streams(locked_product: Web) -> None:
    with Client(locked_product.url, "sesame") as client:
        job = client.submit("let me in", max_tokens=3)
        assert text_of(list(client.stream(job.id))) == "let me in"
    with Client(locked_product.url, "guess") as stranger:
        with pytest.raises(UnauthorizedError):
            stranger.get(job.id)
        with pytest.raises(UnauthorizedError):
            list(stranger.stream(job.id))


def test_a_key_may_be_any_text_and_have_white_space_around_it(tmp_path: Path) -> None:
    with (
        running(tmp_path, API_KEYS="ali:clé à=1") as web,
        Client(f" {web.url}/\n", "\tclé à=1 \r\n") as client,
    ):
        job = client.submit("let me in", max_tokens=3)
        assert text_of(list(client.stream(job.id))) == "let me in"
