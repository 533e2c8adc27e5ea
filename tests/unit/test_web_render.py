"""What clients read is rendered once, and safe on every client's line splitter."""

from __future__ import annotations

import json

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from tasks.job import Status
from tasks.log import DoneEntry, StatusEntry, TokenEntry
from web.relay.events import Batch, Event
from web.render import to_json


def test_a_published_message_becomes_numbered_events() -> None:
    batch = Batch.parse('[5,["s",2],["t",1,[7,8]," é",null,"stop"],["d","completed"]]')
    assert [json.loads(event.json) for event in batch.events] == [
        {"seq": 5, "type": "status", "status": "in_progress", "attempt": 2},
        {"seq": 6, "type": "token", "index": 1, "text": " é", "logprobs": None},
        {"seq": 7, "type": "done", "status": "completed"},
    ]
    assert batch.events[0].sse == f"id: 5\nevent: status\ndata: {batch.events[0].json}\n\n".encode()


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_an_event_is_a_frame_that_wsproto_reads(length: int) -> None:
    reader = Connection(ConnectionType.CLIENT)
    reader.receive_data(Event(1, "token", "é" * (length // 2) + "x" * (length % 2)).frame)
    [message] = reader.events()
    assert isinstance(message, TextMessage)
    assert (len(message.data.encode()), message.message_finished) == (length, True)


def test_a_batch_is_rendered_once_for_all_its_readers() -> None:
    batch = Batch(1, [StatusEntry(1)])
    assert batch.events is batch.events


def test_only_a_done_entry_ends_a_job() -> None:
    assert Batch(1, [DoneEntry(Status.COMPLETED)]).ends_job
    assert not Batch(1, [TokenEntry(0, (), "x")]).ends_job
    assert not Batch(1, []).ends_job


@pytest.mark.parametrize("message", ["", "[", "{}", "[]", '[1,["x"]]', "null"])
def test_garbage_on_the_channel_is_a_value_error(message: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Batch.parse(message)


def test_no_character_ends_a_line() -> None:
    text = "".join(chr(code) for code in range(0x3000))
    rendered = to_json({"text": text})
    assert len(rendered.splitlines()) == 1
    assert json.loads(rendered) == {"text": text}
