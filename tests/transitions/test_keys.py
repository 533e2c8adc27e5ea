"""docs/keys.md lists the keys that the code uses, and those of a Redis in use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from harness.writing import flush, write_of
from tasks import keys
from tasks.batch import Span
from tasks.batches import Batches
from tasks.files import Files
from tasks.job import PREEMPTED, JobError, Status
from tasks.leases import Leases, Outcome
from tasks.log import TokenEntry
from tasks.reaper import Reaper
from tasks.reasoning_marks import ReasoningMarks
from tasks.request import parse_request
from tasks.script_source import Encoded
from tasks.scripts import Scripts
from tasks.settings import Settings
from tasks.store import Store
from tests.transitions.batch_harness import BatchHarness, answers

ROOT = Path(__file__).parents[2]
KEYS_PART, RECORD_PART = (ROOT / "docs" / "keys.md").read_text().split("\n## The record\n")
KEY_ROW = re.compile(r"^\| `([^`]+)` \| ([a-z ]+) \|", re.MULTILINE)
FIELD_ROW = re.compile(r"^\| (`[^|]+`) \| [^|]+ \|$", re.MULTILINE)
TYPES = {"sorted set": "zset"}
"""The table's name of a type -> Redis' name, where they differ."""

NOT_IN_THESE_TESTS = {"ticket", "nothing"}
"""The web server writes tickets. The key `nothing` never exists."""


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    type: str

    @property
    def kind(self) -> str:
        return self.name.split(":")[0]


ROWS = [Row(name, TYPES.get(kind, kind)) for name, kind in KEY_ROW.findall(KEYS_PART)]


def kinds_in_sources() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tasks" / "lua").rglob("*.lua"):
        source = path.read_text()
        found |= {*re.findall(r"\bkey\('(\w+)'", source), *re.findall(r"PREFIX \.\. '(\w+)'", source)}
    own = (ROOT / "tasks" / "keys.py").read_text()
    found |= {*re.findall(r"\{PREFIX\}(\w+)", own), *re.findall(r'PREFIX \+ "(\w+)', own)}
    for folder in ("tasks", "web", "worker", "deploy"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(re.findall(r"\bkeys\.PREFIX(?: \+ \"|\})(\w+)", path.read_text()))
    return found


def test_the_table_lists_the_keys_of_the_sources() -> None:
    assert {row.kind for row in ROWS} == kinds_in_sources()
    assert len(ROWS) == len({row.name for row in ROWS})


class WatchedScripts(Scripts):
    """Notes keys, their types and the fields of records after each call."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: set[Row] = set()
        self.fields: set[str] = set()

    def _run(self, name: str, arguments: Sequence[Encoded]) -> Any:
        answer = super()._run(name, arguments)
        self.note()
        return answer

    def note(self) -> None:
        redis: Any = self.redis
        for key in redis.keys("*"):
            assert key.startswith(keys.PREFIX), key
            row = Row(key.removeprefix(keys.PREFIX), redis.type(key))
            self.seen.add(Row(row.kind, row.type))
            if row.kind == "job":
                self.fields |= redis.hgetall(key).keys()


class WatchedHarness(BatchHarness):
    scripts: WatchedScripts

    def __init__(self, redis: Redis, settings: Settings) -> None:
        super().__init__(redis, settings, Scripts)
        self.scripts = WatchedScripts(redis, settings, self.send_offers)
        self.store, self.leases = Store(self.scripts), Leases(self.scripts)
        self.reaper = Reaper(self.scripts)
        self.files, self.batches = Files(self.scripts), Batches(self.scripts)


@pytest.fixture
def harness(redis: Redis, settings: Settings) -> Iterator[WatchedHarness]:
    yield WatchedHarness(redis, settings)
    redis.config_set("maxmemory", 0)


def live_through_everything(harness: WatchedHarness) -> None:
    """Runs at least one job of each kind, a worker that dies, and a Redis that is nearly full."""
    channel = keys.lifeline("w1", "p")
    with harness.redis.pubsub() as lifeline:
        lifeline.subscribe(channel)
        lifeline.get_message(timeout=5)
        harness.worker(4, divides=True)
        conversation = parse_request({"messages": [{"role": "user", "content": "x"}]})
        [divided] = harness.store.submit_all([conversation], "ada", origin={"api": "chat.completions"})
        harness.complete(harness.claim(divided.job_id))
        marks = ReasoningMarks("<think>", "</think>", is_opened=True)
        harness.worker(4, lifeline=channel, length=64, marks=marks)
        harness.reap()
        messages = [{"role": "user", "content": "x" * 5000}]
        options = {"messages": messages, "timeout": 60, "expires_in": 60}
        [made] = harness.store.submit_all(
            [parse_request(options)], "ada", "key", origin={"api": "responses"}, keep_seconds=60
        )
        job = made.job_id
        claim = harness.claim(job)
        flush(harness.leases, [write_of(job, "t", 1, 4, (TokenEntry(0, (1,), "a"),))])
        harness.reap()
        harness.store.cancel(job)
    flush(harness.leases, [write_of(job, "t", 2, 4, (), Outcome(Status.CANCELLED))])
    harness.make_due(keys.PREFIX + "unpacked", job)

    low = harness.claim(harness.submit(priority="low", n=4))
    flush(harness.leases, [write_of(low.job_id, "t", 1, 4, (TokenEntry(0, (1,), "a"),))])
    normal = harness.submit(n=4)
    harness.leases.release([(low.job_id, "t")], PREEMPTED)
    harness.complete(harness.claim(normal))
    harness.complete(harness.claim(low.job_id), base=3)

    for error in (JobError("prompt_too_long", "in words"), None):
        claim = harness.claim(harness.submit(prompt="x" * 5000))
        outcome = Outcome(Status.FAILED, error) if error else Outcome(Status.COMPLETED)
        flush(harness.leases, [write_of(claim.job_id, "t", 1, 4, (), outcome)])
        harness.make_due(keys.PREFIX + "unpacked", claim.job_id)

    waiting, lost = harness.submit(n=4, expires_in=60), harness.submit(n=4)
    harness.redis.delete(keys.job(lost))
    harness.leases.release([(waiting, harness.claim(waiting).lease_token)], "drained")
    harness.store.cancel(waiting)
    harness.reap()
    live_through_a_batch(harness)
    harness.redis.config_set("maxmemory", int(harness.redis.info("memory")["used_memory"] / 0.9))
    harness.reap()
    assert claim.request


def live_through_a_batch(harness: WatchedHarness) -> None:
    """Runs a batch with a line that has a job, and with 300 others, so that its file gets a mark."""
    batch = harness.started(total=301)
    harness.feed(batch, 1)
    batch = harness.batches.get(batch.id)
    harness.batches.skip(batch, Span(batch.offset, batch.input_bytes, 301), ["x"] * 300)
    harness.batches.answer(batch.id, answers(harness.end_jobs(batch)))
    harness.batches.close(batch.id, "completed")
    harness.batches.end(batch.id)


def test_the_table_lists_the_keys_of_a_redis_in_use(harness: WatchedHarness) -> None:
    live_through_everything(harness)
    expected = {Row(row.kind, row.type) for row in ROWS if row.kind not in NOT_IN_THESE_TESTS}
    assert harness.scripts.seen == {row for row in expected if row.type != "channel"}


def test_the_table_lists_the_fields_of_the_records(harness: WatchedHarness) -> None:
    live_through_everything(harness)
    fields = {field for row in FIELD_ROW.findall(RECORD_PART) for field in re.findall(r"`(\w+)`", row)}
    assert harness.scripts.fields == fields
