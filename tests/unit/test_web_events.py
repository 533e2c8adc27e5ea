"""An event keeps its log entry, and an encoder makes each format that clients read from it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from tasks.job import Choice, FinishReason, Job, JobError, Status
from tasks.log import DoneEntry, Entry, StatusEntry, TokenEntry
from web.relay import sse
from web.relay.encoders import LONG_FIELDS, ContractEncoder, event_json
from web.relay.events import Batch, Event
from web.relay.websocket_frames import text_message
from web.render import to_json
from web.routes.demo import token_message

URL = "http://relay.example"

lists_of_logprobs = st.lists(
    st.tuples(st.text(), st.floats(-9, 0), st.just([["t", -2.0]])).map(list), max_size=2
)
texts = st.text() | st.sampled_from(['],["t",0,[7],"', "\\", "]", '"', "\u2028"])
entries: st.SearchStrategy[Entry] = (
    st.builds(StatusEntry, st.integers(1, 9))
    | st.builds(
        TokenEntry,
        st.integers(0, 7),
        st.lists(st.integers(0, 2**17)).map(tuple),
        texts,
        st.none() | st.sampled_from(FinishReason),
        st.none()
        | st.lists(st.tuples(texts, st.floats(-9, 0), st.just([["t", -2.0]])).map(list), max_size=2),
    )
    | st.builds(DoneEntry, st.sampled_from(Status))
)


def published(first_seq: int, logged: list[Entry]) -> str:
    """Returns the message as prelude.lua makes it."""
    return f"[{first_seq},{','.join(entry.encode() for entry in logged)}]"


def ended_job(status: Status, error: JobError | None = None) -> Job:
    return Job(
        id="job_1",
        owner="name",
        model="m",
        status=status,
        request={"prompt": "once", "metadata": {}},
        created_at=1.0,
        started_at=2.0,
        first_token_at=3.0,
        ended_at=4.0,
        attempts=[],
        output=[Choice(0, " é")],
        prompt_tokens=1,
        error=error,
        read_at=5.0,
    )


def test_a_published_message_becomes_numbered_events() -> None:
    batch = Batch.parse('[5,["s",2],["t",1,[7,8]," é",null,"stop"],["d","completed"]]')
    assert [json.loads(event_json(event)) for event in batch.events] == [
        {"seq": 5, "type": "status", "status": "in_progress", "attempt": 2},
        {"seq": 6, "type": "token", "index": 1, "text": " é", "logprobs": None},
        {"seq": 7, "type": "done", "status": "completed"},
    ]


def test_an_event_keeps_the_bytes_of_its_log_entry() -> None:
    batch = Batch.parse('[5,["s",2],["t",1,[7,8]," \\u00e9]",null,"stop"],["d","completed"]]')
    assert [event.entry_json for event in batch.events] == [
        '["s",2]',
        '["t",1,[7,8]," \\u00e9]",null,"stop"]',
        '["d","completed"]',
    ]


@given(st.lists(entries, min_size=1, max_size=4))
def test_published_events_are_those_of_the_log(logged: list[Entry]) -> None:
    published_batch = Batch.parse(published(3, logged))
    assert published_batch == Batch.of_entries(3, [entry.encode() for entry in logged])
    assert [event.entry for event in published_batch.events] == logged
    assert [event.seq for event in published_batch.events] == list(range(3, 3 + len(logged)))


def test_an_events_bytes_stay_the_same() -> None:
    [status, token, _] = Batch.parse('[1,["s",1],["t",0,[7]," é\u2028"],["d","completed"]]').events
    as_sse, as_frame = ContractEncoder(sse.message, URL), ContractEncoder(text_message, URL)
    assert as_sse(status) == (
        b'id: 1\nevent: status\ndata: {"seq":1,"type":"status","status":"in_progress","attempt":1}\n\n'
    )
    data = '{"seq":2,"type":"token","index":0,"text":" é\\u2028","logprobs":null}'.encode()
    assert as_sse(token) == b"id: 2\nevent: token\ndata: " + data + b"\n\n"
    assert as_frame(token) == b"\x81" + bytes([len(data)]) + data


def test_the_last_event_has_its_job_at_the_readers_address() -> None:
    [done] = Batch.parse('[9,["d","completed"]]').events
    event = done.with_job(ended_job(Status.COMPLETED))
    full = ContractEncoder(sse.message, URL)(event).decode()
    assert full.startswith("id: 9\nevent: done\ndata: ")
    body = json.loads(full.removeprefix("id: 9\nevent: done\ndata: "))
    assert (body["status"], body["job"]["urls"]["self"]) == ("completed", f"{URL}/v1/jobs/job_1")
    short = ContractEncoder(text_message, "https://other", is_done_short=True)(event)
    job = json.loads(short[4:])["job"]
    assert job.keys() == body["job"].keys() - LONG_FIELDS
    assert job["urls"]["stream"] == "wss://other/v1/jobs/job_1/stream"


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_an_event_is_a_frame_that_wsproto_reads(length: int) -> None:
    reader = Connection(ConnectionType.CLIENT)
    reader.receive_data(text_message(Event(1, "[]"), "é" * (length // 2) + "x" * (length % 2)))
    [message] = reader.events()
    assert isinstance(message, TextMessage)
    assert (len(message.data.encode()), message.message_finished) == (length, True)


def test_an_event_is_encoded_once_for_all_its_readers() -> None:
    [event] = Batch.parse('[1,["s",1]]').events
    first, second = (ContractEncoder(sse.message, url) for url in (URL, "https://other"))
    assert first(event) is second(event)
    assert ContractEncoder(text_message, URL)(event) != first(event)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Event(1, '["s",1]'), ""),
        (Event(2, '["t",0,[7],""]'), ""),
        (Event(2, '["t",0,[7]," é"]'), 'data: {"token":" é"}\n\n'),
        (Event(3, '["d","completed"]', ended_job(Status.COMPLETED)), "data: [DONE]\n\n"),
        (
            Event(3, '["d","failed"]', ended_job(Status.FAILED, JobError("timeout", "too slow"))),
            'data: {"error":{"code":"timeout","message":"too slow"}}\n\n',
        ),
        (
            Event(3, '["d","cancelled"]', ended_job(Status.CANCELLED)),
            'data: {"error":{"code":"cancelled","message":"the job was cancelled"}}\n\n',
        ),
    ],
)
def test_the_demos_stream_has_tokens_and_an_end(event: Event, expected: str) -> None:
    assert token_message(event).decode() == expected


def test_only_a_done_entry_ends_a_job() -> None:
    assert Batch.of_entries(1, ['["s",1]', '["d","completed"]']).ends_job
    assert not Batch.of_entries(1, ['["t",0,[],"x"]']).ends_job
    assert not Batch(1, []).ends_job


@pytest.mark.parametrize(
    "message",
    [
        "",
        "[",
        "{}",
        "[]",
        '[1,["x"]]',
        "null",
        "[1,2]",
        '[1,["s",1]',
        '[1,["s",1],]',
        '[1,["s",1]]]',
        "[x,[]]",
    ],
)
def test_an_invalid_message_is_a_value_error(message: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Batch.parse(message)


def test_no_character_ends_a_line() -> None:
    text = "".join(chr(code) for code in range(0x3000))
    rendered = to_json({"text": text})
    assert len(rendered.splitlines()) == 1
    assert json.loads(rendered) == {"text": text}
