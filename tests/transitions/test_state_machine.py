"""Any order of the transitions keeps the invariants.

A job that has not ended is in exactly one place: a line, the offers or the leases. It is only offered to
workers of its engine that understand its record. Nothing is written without the lease token. No log entry is
lost or repeated.

One file, because it is one state machine: each rule changes the model that the invariants compare with Redis.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product, takewhile
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from harness.writing import flush, write_of
from tasks import keys, request
from tasks.errors import (
    ConflictError,
    IdempotencyConflictError,
    InvalidRequestError,
    JobNotFoundError,
    QueueFullError,
)
from tasks.job import PREEMPTED, TERMINAL_STATUSES, Job, JobError, Status
from tasks.leases import Claim, Leases, Outcome, WorkerInfo, WriteStatus
from tasks.log import DoneEntry, Entry, StatusEntry, TokenEntry
from tasks.reaper import Reaper
from tasks.request import RECORD_VERSION, Priority, parse_request
from tasks.script_source import Encoded
from tasks.scripts import Offer, Scripts
from tasks.settings import EngineKind, Settings
from tasks.store import Store

MODEL = "m"
WORKERS = {"w1": EngineKind.ECHO, "w2": EngineKind.VLLM, "w3": EngineKind.ECHO}
NAMES = st.sampled_from(sorted(WORKERS))
ENGINE_POOLS = sorted({keys.engine_pool(MODEL, engine) for engine in WORKERS.values()})
QUEUES = [keys.queue(MODEL), keys.queue(MODEL, EngineKind.VLLM)]
WIDTHS = range(1, 5)
OLD, NEW = 1, RECORD_VERSION + 1
VERSIONS = [OLD, NEW]
LINES = {line: keys.line(*line) for line in product(QUEUES, WIDTHS, VERSIONS)}
INDEXES = {
    "line": [f"{queue}:{width}:{version}" for queue, width, version in LINES],
    "offered": ENGINE_POOLS,
    "leases": ENGINE_POOLS,
}
OWNERS = st.sampled_from(["ada", "bob", "eve"])


class DoubledScripts(Scripts):
    """Runs every script twice with the same arguments, as redis-py does when an answer is lost."""

    def _run(self, name: str, arguments: Sequence[Encoded]) -> Any:
        super()._run(name, arguments)
        return super()._run(name, arguments)


def is_low(record: Mapping[str, str]) -> bool:
    return bool(json.loads(record["request"])["priority"] == Priority.LOW)


def is_asked(record: Mapping[str, str]) -> bool:
    """Returns whether a leased job is asked to give its slots back."""
    return record.get("preempt_requested") == record["token"]


def may_be_asked(record: Mapping[str, str], tag: float, job_id: str) -> bool:
    """Returns whether a running job of priority low may be asked for its slots, for a job with a fair tag."""
    return (
        not is_asked(record)
        and record["progress"] == "1"
        and record["taken"] == record["n"]
        and (tag, job_id) < (float(record["score"]), record["id"])
    )


class Transitions(RuleBasedStateMachine):
    redis: Any
    scripts: type[Scripts]

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        config = Settings(redis_url="redis://unused", model_id=MODEL, max_num_seqs=4, max_queued_jobs=8)
        scripts = self.scripts(self.redis, config, self.check_offers)
        self.store, self.leases, self.reaper = Store(scripts), Leases(scripts), Reaper(scripts)
        self.logs: dict[str, list[Entry]] = {}
        self.tokens: dict[str, str] = {}
        self.ended: dict[str, Status] = {}
        self.claim_number = 0
        self.asked: set[tuple[str, str]] = set()
        """(job id, lease token) of the jobs that were asked for their slots, after the last step."""
        self.versions: dict[str, int] = {}
        """Worker -> the record version that its release understands."""
        for worker in WORKERS:
            self.heartbeat(worker, 4, OLD)

    def check_offers(self, offers: Sequence[Offer]) -> None:
        for worker, job_id in offers:
            engine_pool = keys.engine_pool(MODEL, WORKERS[worker])
            assert self.redis.zscore(keys.offered(engine_pool), job_id) is not None
            record = self.redis.hgetall(keys.job(job_id))
            assert record["queue"] in (keys.queue(MODEL), engine_pool)
            assert (record["pool"], record["worker"]) == (engine_pool, worker)
            assert int(record["version"]) <= self.versions[worker]

    @initialize(target=claims, count=st.integers(1, 3), is_full=st.booleans())
    def begin(self, count: int, is_full: bool) -> Any:
        """Lets workers hold jobs from the start. Few runs would get so far by themselves.

        is_full: jobs of priority low take all slots of all workers, and each has a token.
        """
        options = {"n": 4, "priority": "low"} if is_full else {}
        body = parse_request({"prompt": "x", "seed": 1, **options})
        submissions = self.store.submit_all([body] * (len(WORKERS) if is_full else count), "ada", None)
        self.logs = {submission.job_id: [] for submission in submissions}
        begun = [
            self._claimed(job_id, str(self.redis.hget(keys.job(job_id), "worker"))) for job_id in self.logs
        ]
        for claim in begun if is_full else ():
            self._flush(claim, 1, 0)
        return multiple(*begun)

    # --- what clients do

    @rule(
        owner=OWNERS,
        n=st.integers(1, 4),
        max_tokens=st.integers(1, 100),
        priority=st.sampled_from(Priority),
        expires_in=st.none() | st.just(3600),
        timeout=st.none() | st.just(3600),
        engine=st.none() | st.just("vllm"),
        key=st.none() | st.sampled_from(["k1", "k2"]),
        count=st.integers(1, 3),
    )
    def submit(self, owner: str, key: str | None, count: int, **options: Any) -> None:
        """`timeout` is a field of the new release."""
        body = {"prompt": "x", "seed": 1, **{k: v for k, v in options.items() if v is not None}}
        waiting = sum(self.redis.zcard(line) for line in LINES.values())
        widest = self.widest(options["engine"])
        try:
            submissions = self.store.submit_all([parse_request(body)] * count, owner, key)
        except QueueFullError:
            assert waiting + count > 8
        except IdempotencyConflictError:
            assert key is not None
        except InvalidRequestError:
            assert widest < options["n"]
        else:
            created = {submission.created for submission in submissions}
            assert len(submissions) == count
            assert created == {not any(submission.job_id in self.logs for submission in submissions)} or key
            for submission in submissions:
                if submission.created:
                    self.logs[submission.job_id] = []

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.logs:
            job_id = data.draw(st.sampled_from(sorted(self.logs)))
            runs = self.place(job_id) == "leases"
            self.store.cancel(job_id)
            assert (self.place(job_id) == "leases") == runs, "a running job is ended by its worker"
            if self.place(job_id) == "ended" and job_id not in self.ended:
                self.end(job_id, Status.CANCELLED)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if self.logs:
            job_id = data.draw(st.sampled_from(sorted(self.logs)))
            owner = self.redis.hget(keys.job(job_id), "owner")
            try:
                self.store.delete(job_id, str(owner))
            except ConflictError:
                assert job_id not in self.ended
            except JobNotFoundError:
                # The second call finds nothing to delete.
                assert self.scripts is DoubledScripts
                self.forget(job_id)
            else:
                self.forget(job_id)

    @rule()
    def read(self) -> None:
        """Reads every job, and checks the positions of waiting ones."""
        for job_id in self.logs:
            job = self.store.get(job_id)
            assert (job.queue_position is not None) == (job.status is Status.QUEUED)
            assert (job.reason is not None) == (self.place(job_id) in ("line", "offered"))
            if job.status is Status.QUEUED and self.place(job_id) == "line":
                self.check_position(job)

    def check_position(self, job: Job) -> None:
        place = (self.queue(job.id), job.request["n"], job.version)
        own = self.line(place)
        engine = None if place[0] == keys.queue(MODEL) else EngineKind.VLLM
        widest = self.widest(engine, job.version)
        others = [
            self.line((queue, width, version))
            for queue, width, version in LINES
            if (queue, width, version) != place and width <= (widest or 4) and version <= job.version
        ]
        before_it = sum(tag < own[job.id] for line in others for tag in line.values())
        assert job.queue_position == before_it + [*own].index(job.id)
        reason = job.reason or ""
        assert reason.startswith(("no worker ", "the workers ")) == (job.request["n"] > widest)
        assert reason.startswith("the workers ") == (widest == 0 and self.widest(engine) > 0)

    # --- what workers do

    @rule(worker=NAMES, slots=st.sampled_from([0, 1, 2, 4]), version=st.sampled_from(VERSIONS))
    def heartbeat(self, worker: str, slots: int, version: int) -> None:
        """The worker may have been restarted with other slots or another release."""
        self.versions[worker] = version
        info = WorkerInfo(worker, MODEL, WORKERS[worker], slots, 0, 0.0, version=version)
        self.leases.heartbeat(info)
        self.check_that_low_jobs_yield()

    def check_that_low_jobs_yield(self) -> None:
        """The first job in line waits only where running jobs of priority low cannot make room for it."""
        waiting = [
            (tag, job_id, line)
            for line in LINES
            if self.able_workers(line)
            for job_id, tag in self.line(line).items()
        ]
        if not waiting:
            return
        tag, job_id, line = min(waiting)
        record = self.redis.hgetall(keys.job(job_id))
        if is_low(record) or int(record["fails"]) >= 2:
            return
        room, more = {}, {}
        for worker in self.able_workers(line):
            held = [r for r in self.leased_low() if r["worker"] == worker]
            room[worker] = self.free_slots(worker) + sum(int(r["taken"]) for r in held if is_asked(r))
            more[worker] = sum(int(r["n"]) for r in held if may_be_asked(r, tag, job_id))
        width = line[1]
        if all(room[worker] < width for worker in room):
            assert all(room[worker] + more[worker] < width for worker in room)

    @rule(worker=NAMES)
    def deregister(self, worker: str) -> None:
        info = WorkerInfo(worker, MODEL, WORKERS[worker], 0, 0, 0.0)
        self.leases.deregister(info)
        assert self.redis.zscore(keys.alive(info.engine_pool), worker) is None

    @rule(target=claims, data=st.data(), worker=NAMES)
    def claim(self, data: st.DataObject, worker: str) -> Any:
        """Claims any job, offered to this worker or not, because messages may be repeated, late or lost."""
        if not self.logs:
            return multiple()
        jobs = sorted(self.logs)
        # Every second claim is of a job on offer, if there is one. Otherwise few runs would get any further.
        offered = [job_id for job_id in jobs if self.is_offered(job_id, worker)]
        return self._claimed(data.draw(st.sampled_from(offered or jobs) | st.sampled_from(jobs)), worker)

    def _claimed(self, job_id: str, worker: str) -> Any:
        engine_pool = keys.engine_pool(MODEL, WORKERS[worker])
        on_offer = self.is_offered(job_id, worker)
        self.claim_number += 1
        lease_token = f"token-{self.claim_number} {worker}"
        claim = self.leases.claim(job_id, lease_token, worker, engine_pool, free_slots=4, held=0)
        assert isinstance(claim, Claim) == on_offer
        if not isinstance(claim, Claim):
            return multiple()
        self.tokens[job_id] = claim.lease_token
        self.logs[job_id].append(StatusEntry(1 + self.statuses(job_id)))
        assert claim.entries == self.logs[job_id]
        return claim

    @rule(claim=claims)
    def claim_again(self, claim: Claim) -> None:
        """Repeats an earlier call, which may be late or sent again because the answer was lost."""
        own = self.tokens.get(claim.job_id) == claim.lease_token
        worker = claim.lease_token.split()[1]
        engine_pool = keys.engine_pool(MODEL, WORKERS[worker])
        on_offer = self.is_offered(claim.job_id, worker)
        again = self.leases.claim(claim.job_id, claim.lease_token, worker, engine_pool, free_slots=4, held=0)
        assert isinstance(again, Claim) == (own or on_offer)
        if on_offer:
            self.tokens[claim.job_id] = claim.lease_token
            self.logs[claim.job_id].append(StatusEntry(1 + self.statuses(claim.job_id)))
        if isinstance(again, Claim):
            assert again.entries == self.logs[claim.job_id]

    @rule(claim=claims, count=st.integers(0, 3), overlap=st.integers(0, 2))
    def flush(self, claim: Claim, count: int, overlap: int) -> None:
        """Appends after the end of the log that the claim's holder knows; sends `overlap` entries again."""
        self._flush(claim, count, overlap)

    def _flush(self, claim: Claim, count: int, overlap: int) -> None:
        own = self.tokens.get(claim.job_id) == claim.lease_token
        log = self.logs.get(claim.job_id, claim.entries)
        since_claim = sum(1 for _ in takewhile(lambda e: isinstance(e, TokenEntry), reversed(log)))
        overlap = min(overlap, since_claim) if own else 0
        base = len(log) - overlap
        fresh = [TokenEntry(0, (base + i,), f"{claim.lease_token} {base + i} ") for i in range(count)]
        again = [e for e in log[base:] if isinstance(e, TokenEntry)]
        (written,) = flush(
            self.leases, [write_of(claim.job_id, claim.lease_token, base, 1, [*again, *fresh])]
        )
        if not own:
            assert written in (WriteStatus.FENCED, WriteStatus.ENDED)
            return
        record = self.redis.hgetall(keys.job(claim.job_id))
        wanted = WriteStatus.PREEMPT if is_asked(record) else None
        assert written == (WriteStatus.CANCEL if "cancel_requested" in record else wanted)
        self.logs[claim.job_id] += fresh

    @rule(claim=claims)
    def flush_beyond_the_log(self, claim: Claim) -> None:
        """Redis lost the last entries. Nothing may be appended after the gap, and the job may not end."""
        base = len(self.logs.get(claim.job_id, [])) + 2
        outcome = Outcome(Status.COMPLETED)
        entry = TokenEntry(0, (0,), "after the hole")
        (written,) = flush(
            self.leases, [write_of(claim.job_id, claim.lease_token, base, 1, [entry], outcome)]
        )
        own = self.tokens.get(claim.job_id) == claim.lease_token
        assert written in ([WriteStatus.BEHIND] if own else [WriteStatus.FENCED, WriteStatus.ENDED])

    @rule(claim=claims, failed=st.booleans())
    def complete_or_fail(self, claim: Claim, failed: bool) -> None:
        own = self.tokens.get(claim.job_id) == claim.lease_token
        outcome = (
            Outcome(Status.FAILED, JobError("engine_error", "no")) if failed else Outcome(Status.COMPLETED)
        )
        base = len(self.logs.get(claim.job_id, claim.entries))
        (written,) = flush(self.leases, [write_of(claim.job_id, claim.lease_token, base, 1, (), outcome)])
        if own:
            assert written is WriteStatus.ENDED
            self.end(claim.job_id, outcome.status)
        else:
            assert written in (WriteStatus.FENCED, WriteStatus.ENDED)

    @rule(claim=claims, reason=st.sampled_from(["drained", PREEMPTED]))
    def release(self, claim: Claim, reason: str) -> None:
        own = self.tokens.get(claim.job_id) == claim.lease_token
        is_cancelled = self.redis.hexists(keys.job(claim.job_id), "cancel_requested")
        released = self.leases.release([(claim.job_id, claim.lease_token)], reason)
        assert released == (own and self.scripts is Scripts)
        if own and is_cancelled:
            self.end(claim.job_id, Status.CANCELLED)
        elif own:
            del self.tokens[claim.job_id]
            assert self.place(claim.job_id) in ("line", "offered")

    # --- what time does

    @rule(kind=st.sampled_from(["leases", "offered", "deadlines", "ended", "unpacked"]), data=st.data())
    def time_passes(self, kind: str, data: st.DataObject) -> None:
        """Makes a member of a set that is sorted by time due, as if time had passed, and calls the reaper."""
        index = keys.PREFIX + kind
        if kind in INDEXES:
            index = f"{index}:{data.draw(st.sampled_from(INDEXES[kind]))}"
        members = self.redis.zrange(index, 0, -1)
        if members:
            self.redis.zadd(index, {data.draw(st.sampled_from(members)): 0})
            self.reap()

    def reap(self) -> None:
        self.redis.set(keys.PREFIX + "reaped_at", str(self.now()))
        for engine_pool in ENGINE_POOLS:
            for job_id in self.redis.zrangebyscore(keys.leases(engine_pool), "-inf", 0):
                self.tokens.pop(str(job_id))
        self.reaper.reap()
        for job_id in [*self.logs]:
            status = self.redis.hget(keys.job(job_id), "status")
            if status is None:
                assert job_id in self.ended
                self.forget(job_id)
            elif status in TERMINAL_STATUSES and job_id not in self.ended:
                assert status in (Status.EXPIRED, Status.FAILED, Status.CANCELLED)
                self.end(job_id, Status(status))

    @rule(data=st.data())
    def pack(self, data: st.DataObject) -> None:
        """Packs any job, ended or not, packed already or not, because the caller may be late."""
        if self.logs:
            job_id = data.draw(st.sampled_from(sorted(self.logs)))
            assert self.reaper.pack(job_id) == (job_id in self.ended)

    # --- what must always hold

    @invariant()
    def every_job_is_in_exactly_one_place(self) -> None:
        members = {
            (place, name): set(self.redis.zrange(f"{keys.PREFIX}{place}:{name}", 0, -1))
            for place, names in INDEXES.items()
            for name in names
        }
        for job_id in self.logs:
            place = self.place(job_id)
            record = self.redis.hgetall(keys.job(job_id))
            line = f"{record['queue']}:{record['n']}:{record['version']}"
            name = line if place == "line" else record.get("pool")
            found = [where for where, jobs in members.items() if job_id in jobs]
            assert found == ([] if job_id in self.ended else [(place, name)])
            assert (place == "ended") == (job_id in self.ended)
            assert place == "line" or self.queue(job_id) in (keys.queue(MODEL), name) or name is None
        assert set().union(*members.values()) <= self.logs.keys()

    @invariant()
    def logs_are_what_token_holders_wrote(self) -> None:
        for job_id, log in self.logs.items():
            assert self.store.read_log(job_id) == log
            assert self.store.header(job_id).log_length == len(log)

    @invariant()
    def counts_agree_with_the_jobs(self) -> None:
        records = {job_id: self.redis.hgetall(keys.job(job_id)) for job_id in self.logs}
        for worker, engine in WORKERS.items():
            assert int(self.redis.hget(keys.slots(keys.engine_pool(MODEL, engine)), worker) or 0) == sum(
                int(record["taken"])
                for record in records.values()
                if record["place"] in ("offered", "leases") and record["worker"] == worker
            )
        counts = {s.value: sum(r["status"] == s for r in records.values()) for s in Status}
        assert self.store.counts() == counts
        for job_id, status in self.ended.items():
            assert records[job_id]["status"] == status
        for record in records.values():
            index = keys.owner_jobs_by_status(record["owner"], record["status"])
            assert self.redis.zscore(index, record["id"]) is not None
        for owner in ("ada", "bob", "eve"):
            own_bytes = sum(int(record["bytes"]) for record in records.values() if record["owner"] == owner)
            assert int(self.redis.hget(keys.PREFIX + "bytes", owner) or 0) == own_bytes
        for job_id in records.keys() - self.ended.keys():
            attempts = json.loads(records[job_id]["attempts"])
            preempted = sum(attempt.get("reason") == PREEMPTED for attempt in attempts)
            assert int(records[job_id].get("preemptions", 0)) == preempted
        everything = sum(self.redis.zcard(keys.owner_jobs(owner)) for owner in ("ada", "bob", "eve"))
        assert everything == len(records)

    @invariant()
    def running_low_jobs_are_listed(self) -> None:
        low = self.leased_low()
        for engine_pool in ENGINE_POOLS:
            running = [record for record in low if record["pool"] == engine_pool]
            listed = self.redis.hgetall(f"{keys.PREFIX}low:{engine_pool}")
            assert listed == {record["id"]: record["token"] for record in running}
            listed = self.redis.hgetall(f"{keys.PREFIX}yielding:{engine_pool}")
            assert listed == {record["id"]: record["token"] for record in running if is_asked(record)}
        asked = {(record["id"], record["token"]): record for record in low if is_asked(record)}
        self.check_new_requests([record for key, record in asked.items() if key not in self.asked])
        self.asked = {*asked}

    def check_new_requests(self, asked: list[dict[str, str]]) -> None:
        """Jobs are only asked for slots that a job of higher priority needs, which comes before them."""
        for worker in {record["worker"] for record in asked}:
            before = [
                (tag, job_id, line[1])
                for line in LINES
                if worker in self.able_workers(line)
                for job_id, tag in self.line(line).items()
                if not is_low(self.redis.hgetall(keys.job(job_id)))
            ]
            own = [record for record in asked if record["worker"] == worker]
            slots = sorted(int(record["taken"]) for record in own)
            assert sum(slots[1:]) < sum(width for _, _, width in before), "one of them could be left out"
            for record in own:
                assert record["progress"] == "1"
                assert record["taken"] == record["n"]
                assert any(
                    (tag, job_id) < (float(record["score"]), record["id"]) for tag, job_id, _ in before
                )

    @invariant()
    def no_job_waits_while_an_idle_worker_could_hold_it(self) -> None:
        for worker, slots in self.live_workers().items():
            engine_pool = keys.engine_pool(MODEL, WORKERS[worker])
            if not slots or self.redis.hget(keys.slots(engine_pool), worker):
                continue
            for queue, width, version in LINES:
                if (
                    queue in (keys.queue(MODEL), engine_pool)
                    and width <= slots
                    and version <= self.versions[worker]
                ):
                    assert not self.line((queue, width, version))

    @invariant()
    def nothing_is_left_of_removed_jobs(self) -> None:
        for kind in ("job", "log"):
            found = {key.rsplit(":", 1)[1] for key in self.redis.keys(f"{keys.PREFIX}{kind}:*")}
            assert found <= self.logs.keys()

    @invariant()
    def waiting_jobs_are_watched(self) -> None:
        """The reaper ends a waiting job at its deadline. The worker ends a running one."""
        watched = set(self.redis.zrange(keys.PREFIX + "deadlines", 0, -1))
        for job_id in self.logs:
            record = self.redis.hgetall(keys.job(job_id))
            deadline = "timeout_at" if "started_at" in record else "expires_at"
            waits = record["place"] in ("line", "offered")
            assert (job_id in watched) == (waits and deadline in record)

    @invariant()
    def idempotency_keys_live_with_their_job(self) -> None:
        for key in self.redis.keys(keys.PREFIX + "idempotency:*"):
            jobs, left = self.redis.hmget(key, "jobs", "left")
            assert sum(job_id in self.logs for job_id in jobs.split(",")) == int(left) > 0

    # --- helpers

    def now(self) -> float:
        seconds, micros = self.redis.time()
        return float(seconds + micros / 1e6)

    def place(self, job_id: str) -> str | None:
        place: str | None = self.redis.hget(keys.job(job_id), "place")
        return place

    def queue(self, job_id: str) -> str:
        return str(self.redis.hget(keys.job(job_id), "queue"))

    def line(self, line: tuple[str, int, int]) -> dict[str, float]:
        return dict(self.redis.zrange(LINES[line], 0, -1, withscores=True))

    def is_offered(self, job_id: str, worker: str) -> bool:
        return self.place(job_id) == "offered" and self.redis.hget(keys.job(job_id), "worker") == worker

    def leased_low(self) -> list[dict[str, str]]:
        """Returns the records of the running jobs of priority low."""
        records = [self.redis.hgetall(keys.job(job_id)) for job_id in self.logs.keys() - self.ended.keys()]
        return [record for record in records if record["place"] == "leases" and is_low(record)]

    def able_workers(self, line: tuple[str, int, int]) -> list[str]:
        """Returns the living workers that may take jobs of a line."""
        queue, width, version = line
        return [
            worker
            for worker, slots in self.live_workers().items()
            if queue in (keys.queue(MODEL), keys.engine_pool(MODEL, WORKERS[worker]))
            and width <= slots
            and version <= self.versions[worker]
        ]

    def free_slots(self, worker: str) -> int:
        taken = self.redis.hget(keys.slots(keys.engine_pool(MODEL, WORKERS[worker])), worker)
        return self.live_workers()[worker] - int(taken or 0)

    def live_workers(self) -> dict[str, int]:
        """Returns living worker -> its slots; 0 if it drains."""
        engine_pools = {worker: keys.engine_pool(MODEL, engine) for worker, engine in WORKERS.items()}
        return {
            worker: int(self.redis.hget(f"{keys.PREFIX}capacity:{engine_pool}", worker))
            for worker, engine_pool in engine_pools.items()
            if self.redis.zscore(keys.alive(engine_pool), worker) is not None
        }

    def widest(self, engine: str | None, version: int = OLD) -> int:
        """Returns the slots of the widest live worker of an engine (None: any) that knows a version, or 0."""
        slots = [
            slots
            for worker, slots in self.live_workers().items()
            if engine in (None, WORKERS[worker]) and self.versions[worker] >= version
        ]
        return max(slots, default=0)

    def statuses(self, job_id: str) -> int:
        return sum(isinstance(entry, StatusEntry) for entry in self.logs[job_id])

    def end(self, job_id: str, status: Status) -> None:
        self.ended[job_id] = status
        self.tokens.pop(job_id, None)
        self.logs[job_id].append(DoneEntry(status))

    def forget(self, job_id: str) -> None:
        del self.logs[job_id], self.ended[job_id]


@pytest.mark.timeout(600)  # Hypothesis shrinks a failure, which takes longer than finding it.
@pytest.mark.parametrize("scripts", [Scripts, DoubledScripts])
def test_transitions(redis: Redis, scripts: type[Scripts], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "SINCE_VERSION", {"timeout": NEW})
    machine = type("Machine", (Transitions,), {"redis": redis, "scripts": scripts})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=150,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
