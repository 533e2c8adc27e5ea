"""The encoding of the token log's entries."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.job import Choice, FinishReason, Status
from tasks.log import DoneEntry, StatusEntry, TokenEntry, choices, event, parse_entry
from tasks.output_parts import Call, Reasoning, joined, parts_of

PARTS = st.text(min_size=1) | st.builds(Reasoning, st.text()) | st.builds(Call, st.text(), st.text())
TOKEN_ENTRIES = st.builds(
    TokenEntry,
    choice=st.integers(0, 2),
    token_ids=st.lists(st.integers(0, 200_000), max_size=5).map(tuple),
    text=st.text(),
    finish_reason=st.none() | st.sampled_from(FinishReason),
    logprobs=st.none()
    | st.lists(st.tuples(st.text(), st.floats(-9999, 0), st.just([["a", -0.5]])).map(list), max_size=3),
    parts=st.none() | st.lists(PARTS, max_size=3),
)


@given(TOKEN_ENTRIES | st.builds(StatusEntry, st.integers(1, 20)))
def test_entries_are_read_as_they_were_written(entry: TokenEntry | StatusEntry) -> None:
    if isinstance(entry, TokenEntry) and entry.parts == parts_of(entry.text, None):
        entry = replace(entry, parts=None)  # Its text is all of the answer.
    assert parse_entry(entry.encode()) == entry
    assert parse_entry(json.loads(entry.encode())) == entry


@pytest.mark.parametrize(
    ("entry", "encoded"),
    [
        (TokenEntry(0, (7,), "a", parts=["a"]), '["t",0,[7],"a"]'),
        (TokenEntry(0, (7,), "", parts=[]), '["t",0,[7],""]'),
        (TokenEntry(0, (7,), "a", parts=[]), '["t",0,[7],"a",null,null,[]]'),
        (TokenEntry(0, (7,), "a", parts=[Reasoning("a")]), '["t",0,[7],"a",null,null,[["r"]]]'),
        (
            TokenEntry(0, (7,), "a", FinishReason.STOP, parts=[Reasoning("b"), "c", Call("f", "{}")]),
            '["t",0,[7],"a",null,"stop",[["r","b"],"c",["c","f","{}"]]]',
        ),
    ],
)
def test_parts_are_short(entry: TokenEntry, encoded: str) -> None:
    assert entry.encode() == encoded


def test_a_part_that_no_worker_can_write_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown part"):
        parse_entry('["t",0,[7],"a",null,null,[["x"]]]')


@given(st.lists(TOKEN_ENTRIES))
def test_a_choices_parts_are_those_of_its_entries(entries: list[TokenEntry]) -> None:
    for choice in choices(entries, 3):
        own = [entry for entry in entries if entry.choice == choice.index]
        parts = [part for entry in own for part in parts_of(entry.text, entry.parts)]
        assert joined(parts_of(choice.text, choice.parts)) == joined(parts)
        assert (choice.parts is None) == all(entry.parts is None for entry in own)


def test_the_end_as_the_scripts_write_it() -> None:
    assert parse_entry('["d","completed"]') == DoneEntry(Status.COMPLETED)


def test_an_entry_that_no_script_can_write_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown entry kind 'x'"):
        parse_entry('["x"]')


@given(st.lists(TOKEN_ENTRIES))
def test_a_choices_text_is_that_of_its_events(entries: list[TokenEntry]) -> None:
    events = [event(seq, entry) for seq, entry in enumerate(entries, 1)]
    shown = [e for e in events if e["type"] == "token"]
    for choice in choices(entries, 3):
        assert choice.text == "".join(e["text"] for e in shown if e["index"] == choice.index)
        assert choice.token_ids == [i for e in entries if e.choice == choice.index for i in e.token_ids]


def test_a_choice_without_entries_is_empty() -> None:
    assert choices([StatusEntry(1), DoneEntry(Status.EXPIRED)], 2) == [Choice(0), Choice(1)]
