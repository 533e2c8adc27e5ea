"""An event keeps its log entry, and an encoder makes each format that clients read from it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from tasks.job import Choice, FinishReason, Job, JobError, Status
from tasks.log import DoneEntry, Entry, StatusEntry, TokenEntry, parse_entry
from tasks.log import event as contract_event
from web.relay import plain_tokens, sse
from web.relay.encoders import LONG_FIELDS, ContractEncoder, event_json
from web.relay.events import Batch, Event
from web.relay.plain_tokens import plain_token
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
    """Returns the message as shared/records.lua makes it."""
    return "\n".join([str(first_seq), *(entry.encode() for entry in logged)])


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
    batch = Batch.parse('5\n["s",2]\n["t",1,[7,8]," é",null,"stop"]\n["d","completed"]')
    assert [json.loads(event_json(event)) for event in batch.events] == [
        {"seq": 5, "type": "status", "status": "in_progress", "attempt": 2},
        {"seq": 6, "type": "token", "index": 1, "text": " é", "logprobs": None},
        {"seq": 7, "type": "done", "status": "completed"},
    ]


def test_an_event_keeps_the_bytes_of_its_log_entry() -> None:
    batch = Batch.parse('5\n["s",2]\n["t",1,[7,8]," \\u00e9]",null,"stop"]\n["d","completed"]')
    assert [event.entry_json for event in batch.events] == [
        '["s",2]',
        '["t",1,[7,8]," \\u00e9]",null,"stop"]',
        '["d","completed"]',
    ]


@given(st.lists(entries, min_size=1, max_size=4))
def test_published_events_are_those_of_the_log(logged: list[Entry]) -> None:
    published_batch = Batch.parse(published(3, logged))
    assert published_batch == Batch(3, [entry.encode() for entry in logged])
    assert [event.entry for event in published_batch.events] == logged
    assert [event.seq for event in published_batch.events] == list(range(3, 3 + len(logged)))


SPECIAL = [*range(0x20), 0x22, 0x5C, 0x7F, 0x85, 0xA0, 0x2028, 0x2029, 0xFEFF, 0x1F600]
any_text = st.text(st.characters(exclude_categories=()) | st.sampled_from([*map(chr, SPECIAL)]))
"""Texts with half surrogates, too."""

choices_and_ids = st.tuples(st.integers(0, 7), st.lists(st.integers(0, 2**17)).map(tuple))


def slowly(seq: int, entry_json: str) -> str:
    """Returns the contract's JSON of an entry, by parsing it."""
    return to_json(contract_event(seq, parse_entry(entry_json)))


@given(st.integers(1, 2**40), choices_and_ids, any_text)
def test_a_plain_tokens_json_is_cut_out_exactly(
    seq: int, place: tuple[int, tuple[int, ...]], text: str
) -> None:
    entry_json = TokenEntry(*place, text).encode()
    event = Event(seq, entry_json, None, plain_token(entry_json))
    assert event_json(event) == slowly(seq, entry_json)
    assert (event.plain is None) == any(character in text for character in "\x85\u2028\u2029")


@given(choices_and_ids, any_text, st.booleans())
def test_any_notation_of_a_token_becomes_the_same_json(
    place: tuple[int, tuple[int, ...]], text: str, is_ascii: bool
) -> None:
    """Another encoder may escape more, as `json.dumps` does by default."""
    fields = ["t", *place, text]
    entry_json = json.dumps(fields, ensure_ascii=is_ascii, separators=(",", ":"))
    [event] = Batch(3, [entry_json]).events
    assert event_json(event) == slowly(3, entry_json)
    [spaced] = Batch(3, [json.dumps(fields)]).events
    assert event_json(spaced) == slowly(3, entry_json)


RAW_PARTS = ["a", "é", '"', "/", "u", "0", "]", "\x7f", "\x00", "\x1f", "\n", "\x85", "\u2028"]
ESCAPES = [r"\\", r"\"", r"\/", r"\n", r"\x", r"\u", r"\u000a", r"\u000A", r"\u0000", r"\u001F", r"\u001f"]
MORE_ESCAPES = ["\\", r"\u007f", r"\u2028", r"\ud800"]
string_parts = st.sampled_from([*RAW_PARTS, *ESCAPES, *MORE_ESCAPES])
numbers = st.sampled_from(["0", "7", "00", "-1", "1.5", "1e3", "", "99999999999", "\u0663"])


@given(numbers, st.lists(numbers, max_size=3), st.lists(string_parts, max_size=4), st.sampled_from(["", " "]))
def test_what_is_cut_out_is_what_a_parser_finds(
    choice: str, ids: list[str], parts: list[str], space: str
) -> None:
    """Whatever an entry looks like: the quick way agrees with the parser, or leaves the entry to it."""
    entry_json = f'["t",{choice},[{",".join(ids)}]{space},"{"".join(parts)}"]'
    plain = plain_token(entry_json)
    if plain is not None:
        assert plain_tokens.event_json(1, plain) == slowly(1, entry_json)


@pytest.mark.parametrize(
    ("entry_json", "is_plain"),
    [
        ('["t",0,[],""]', True),
        ('["t",7,[12,13]," once \\"\\n\\u0000 é"]', True),
        ('["t",0,[7],"x",null,"stop"]', False),
        ('["t",0,[7],"x",[["x",-1.0,[]]]]', False),
        ('["t",0,[7],"\\u00e9"]', False),
        ('["s",1]', False),
        ('["d","completed"]', False),
    ],
)
def test_a_plain_token_is_not_parsed(entry_json: str, is_plain: bool) -> None:
    assert (plain_token(entry_json) is not None) is is_plain


def test_a_plain_token_is_parsed_when_somebody_asks() -> None:
    [event] = Batch.parse('4\n["t",1,[7,8]," é"]').events
    assert event.plain
    assert event.plain.groups() == ("1", '" é"')
    assert (event.type, event.ends_job) == ("token", False)
    assert event.entry == TokenEntry(1, (7, 8), " é")


def test_an_events_bytes_stay_the_same() -> None:
    [status, token, _] = Batch.parse('1\n["s",1]\n["t",0,[7]," é\u2028"]\n["d","completed"]').events
    as_sse, as_frame = ContractEncoder(sse.message, URL), ContractEncoder(text_message, URL)
    assert as_sse(status) == (
        b'id: 1\nevent: status\ndata: {"seq":1,"type":"status","status":"in_progress","attempt":1}\n\n'
    )
    data = '{"seq":2,"type":"token","index":0,"text":" é\\u2028","logprobs":null}'.encode()
    assert as_sse(token) == b"id: 2\nevent: token\ndata: " + data + b"\n\n"
    assert as_frame(token) == b"\x81" + bytes([len(data)]) + data


def test_the_last_event_has_its_job_at_the_readers_address() -> None:
    [done] = Batch.parse('9\n["d","completed"]').events
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
    reader.receive_data(text_message(1, "token", "é" * (length // 2) + "x" * (length % 2)))
    [message] = reader.events()
    assert isinstance(message, TextMessage)
    assert (len(message.data.encode()), message.message_finished) == (length, True)


@given(st.lists(entries, min_size=1, max_size=4))
def test_a_batch_is_encoded_as_its_events_are(logged: list[Entry]) -> None:
    batch = Batch.parse(published(3, logged))
    for framing in (sse.message, text_message):
        encode = ContractEncoder(framing, URL)
        assert encode.batch(batch) == b"".join(map(encode, batch.events))


def test_a_batch_is_encoded_once_for_all_its_readers() -> None:
    batch = Batch.parse('1\n["t",0,[7],"x"]')
    first, second = (ContractEncoder(text_message, url) for url in (URL, "https://other"))
    assert first.batch(batch) is second.batch(batch)


def test_an_event_is_encoded_once_for_all_its_readers() -> None:
    [event] = Batch.parse('1\n["s",1]').events
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
    assert Batch(1, ['["s",1]', '["d","completed"]']).ends_job
    assert not Batch(1, ['["t",0,[],"x"]']).ends_job
    assert not Batch(1, []).ends_job


@pytest.mark.parametrize(
    "message",
    [
        "",
        "1",
        "1\n",
        '["s",1]',
        '\n["s",1]',
        'x\n["s",1]',
        '[1,["s",1]]',
        '1\n["x"]',
        '1\n["s"]',
        "1\n{}",
        "1\nnull",
        "1\n2",
        '1\n["s",1',
        '1\n["s",1]]',
        '1\n["s",1]\n',
        '1\n["s",1]\n["t",0,[7],"x"',
        '1\n["t",0,[07],"x"]',
        '1\n["t",0,[7,],"x"]',
        '1\n["t",0,[7],"\t"]',
        '1\n["t",0,[7],"x"]x',
        '1\n["t",0,[7]]',
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
