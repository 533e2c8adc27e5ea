"""A script's head declares the arguments and the answers of the script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.script_source import LUA, Script, assemble
from tasks.scripts import SHARED_ARGUMENTS, all_scripts

OWN_TEXTS = {path.stem: path.read_text() for path in LUA.glob("*.lua")}
STATUS = re.compile(r"^--   (\w+)", re.MULTILINE)


def test_arguments_are_declared_and_encoded_in_order() -> None:
    claim = all_scripts()["claim"]
    shared = {"PREFIX": "p:", "LEASE_SECONDS": 5, "RESEND_OFFER_SECONDS": 2.0, "RETENTION_SECONDS": 60}
    own = {"worker": "w", "held_jobs": 1, "id": "j", "lease_token": "t", "engine_pool": "e", "free_slots": 2}
    assert claim.encode({**own, **shared}) == ["p:", 5, 2.0, 60, "j", "t", "w", "e", 2, 1]
    assert "local free_slots = tonumber(ARGV[9])\n" in claim.text


def test_each_type_is_encoded() -> None:
    script = Script("", {"flag": "flag", "json": "json", "texts": "texts"})
    given = {"flag": True, "json": [{"text": "é"}], "texts": ["a", "b"]}
    assert script.encode(given) == [1, '[{"text":"é"}]', "a", "b"]


@pytest.mark.parametrize("given", [{}, {"id": "j", "owner": "o", "more": 1}, {"id": "j", "own": "o"}])
def test_wrong_arguments_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(TypeError, match="the script takes"):
        Script("", {"id": "text", "owner": "text"}).encode(given)


def test_a_part_comes_after_those_that_it_needs() -> None:
    text = assemble(LUA / "cancel.lua", SHARED_ARGUMENTS).text
    order = [
        "local PREFIX",
        "function key(",
        "function load_job(",
        "function leave_place(",
        "function end_job(",
    ]
    places = [text.index(step) for step in order]
    assert places == sorted(places)
    assert "is_settling" not in text


@pytest.mark.parametrize("name", OWN_TEXTS)
def test_the_head_lists_the_arguments_and_the_answers(name: str) -> None:
    head, _, rest = OWN_TEXTS[name].partition("-- Answers:\n")
    assert head.startswith("-- ")
    assert "\n-- Reads: " in head
    assert rest, "the head must list the answers"
    comment = rest[: re.search(r"^(?!--)", rest, re.MULTILINE).start()]  # type: ignore[union-attr]
    body = rest[len(comment) :]
    calls = re.findall(r"\banswer\(([^{\n]+)", body)
    answered = {status for call in calls for status in re.findall(r"'(\w+)'", call)}
    listed = set(STATUS.findall(comment.partition("\n--\n")[0]))
    assert answered <= listed
    # A function of a shared part may decide, such as `refusal`.
    decided_in_parts = set(re.findall(r"\breturn '(\w+)'", all_scripts()[name].text))
    assert listed - answered <= {"ok"} | decided_in_parts
    for argument in all_scripts()[name].arguments.keys() - SHARED_ARGUMENTS.keys():
        assert re.search(rf"\b{argument}\b", body), f"{argument} is not used"


def test_an_unknown_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.lua"
    path.write_text("-- Arguments:\n--   id: string\nreturn id\n")
    with pytest.raises(KeyError):
        assemble(path, {})
