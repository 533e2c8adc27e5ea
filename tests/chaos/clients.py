"""Clients that submit jobs, follow them and check them. They know the right text without asking Redis."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from client import Client, ClientError, InvalidRequestError
from client.job import Job
from harness.releases import NEW_FIELD, Release
from tasks.job import PREEMPTED
from tests.chaos.markers import UNDECODABLE, UNENCODABLE

TIMEOUT_SECONDS = 120.0
"""How long a client retries, and waits for a job's end: far longer than any single failure takes."""

FAULTY_SHARE, NEW_FIELD_SHARE = 0.05, 0.1
"""The share of jobs that make a tokenizer fail, and of jobs that use the next release's new field."""

PRIORITIES = ["low", "low", "normal", "normal", "high"]
"""The priorities of jobs, each as often as it is here. Running low ones give their slots to others."""


@dataclass
class Verdict:
    """What all clients counted, and the faults that they found."""

    accepted: int = 0
    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    """Jobs that failed as expected: their prompt cannot be tokenized, or their output cannot be decoded."""
    refused: int = 0
    """Submits that no worker of the fleet could run at that moment."""
    continued: int = 0
    """Jobs that had more than one attempt."""
    preempted: int = 0
    """Attempts that gave their slots to a job of higher priority."""
    tokens: int = 0
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __str__(self) -> str:
        counts = (
            f"accepted {self.accepted}, completed {self.completed}, cancelled {self.cancelled}, "
            f"failed {self.failed}, refused {self.refused}, continued by another attempt {self.continued}, "
            f"preempted {self.preempted}, "
            f"{self.tokens} tokens"
        )
        return "\n".join([counts, *self.notes, f"faults: {len(self.faults)}", *self.faults])


class ChaosClient:
    """Submits one job after the other, each with an idempotency key, and follows it to its end."""

    def __init__(
        self,
        url: str,
        name: str,
        seed: int,
        verdict: Verdict,
        stop: threading.Event,
        releases: Sequence[Release] = (),
    ) -> None:
        """releases: if one of them knows NEW_FIELD, some jobs have it."""
        self._old_releases = [release.name for release in releases if not release.knows_new_field]
        self._uses_new_field = any(release.knows_new_field for release in releases)
        self._client = Client(url, retry_seconds=TIMEOUT_SECONDS)
        self._name = name
        self._random = random.Random(f"{seed}-{name}")
        self._verdict = verdict
        self._stop = stop
        self.thread = threading.Thread(target=self._run, name=name)

    def _run(self) -> None:
        number = 0
        with self._client:
            while not self._stop.is_set():
                number += 1
                try:
                    self._one_job(f"{self._name}.{number}")
                except (ClientError, AssertionError) as error:
                    with self._verdict.lock:
                        self._verdict.faults.append(f"{self._name}.{number}: {error!r}")

    def _one_job(self, label: str) -> None:
        length = self._random.choice([1, 5, 30, 100, 200])
        n = self._random.choice([1, 1, 1, 2, 4])
        # Each position has a word of its own, so that the text shows a gap, a repeat or a mix of two texts.
        words = [f"{label}/{i}" for i in range(length)]
        if self._random.random() < FAULTY_SHARE:
            position, word = self._random.choice([(0, UNENCODABLE), (length // 2, UNDECODABLE)])
            words[position] = word
        new = {NEW_FIELD: label} if self._uses_new_field and self._random.random() < NEW_FIELD_SHARE else {}
        priority = self._random.choice(PRIORITIES)
        job = self._submit(" ".join(words), label, max_tokens=length, n=n, priority=priority, **new)
        if job is None:
            return
        with self._verdict.lock:
            self._verdict.accepted += 1
        cancel_at = self._random.randrange(length * n) if self._random.random() < 0.1 else None
        texts = self._follow(job, n, cancel_at)
        job = self._client.get(job.id)
        self._judge(job, texts, words, cancel_at is not None)
        if new:
            workers = [attempt["worker"] for attempt in job.fields["attempts"]]
            assert not any(name in worker for worker in workers for name in self._old_releases), workers

    def _submit(self, prompt: str, label: str, **options: Any) -> Job | None:
        """Returns None if the server says that no worker of the fleet can run the job."""
        try:
            return self._client.submit(prompt, idempotency_key=label, **options)
        except InvalidRequestError as error:
            reasons = {one["field"] for one in error.errors}
        assert reasons <= {"n", NEW_FIELD} & options.keys(), reasons
        with self._verdict.lock:
            self._verdict.refused += 1
        return None

    def _follow(self, job: Job, n: int, cancel_at: int | None) -> list[str]:
        """Returns each choice's text from the stream, and checks that events are numbered without gaps."""
        texts = [""] * n
        expected_seq = 1
        for event in self._client.stream(job.id):
            assert event["seq"] == expected_seq, f"event {event['seq']} came, {expected_seq} was expected"
            expected_seq += 1
            if event["type"] == "token":
                texts[event["index"]] += event["text"]
            if cancel_at is not None and expected_seq > cancel_at:
                cancel_at = None
                self._client.cancel(job.id)
        return texts

    def _judge(self, job: Job, texts: list[str], words: list[str], may_be_cancelled: bool) -> None:
        right = " ".join(words)
        output = [choice["text"] for choice in job.fields["output"]]
        assert output == texts, f"polled {output!r}, streamed {texts!r}"
        preempted = [attempt["reason"] == PREEMPTED for attempt in job.fields["attempts"]]
        assert job.fields["request"]["priority"] == "low" or not any(preempted), job.fields["attempts"]
        must_fail = UNENCODABLE in words or UNDECODABLE in words
        if job.status == "cancelled":
            assert may_be_cancelled
            assert all(right.startswith(text) for text in texts), texts
        elif must_fail:
            assert (job.status, job.fields["error"]["code"]) == ("failed", "engine_error"), job.fields
            assert all(right.partition(UNDECODABLE)[0].startswith(text) for text in texts), texts
        else:
            assert job.status == "completed", (job.status, job.error)
            assert texts == [right] * len(texts), texts
        with self._verdict.lock:
            self._verdict.completed += job.status == "completed"
            self._verdict.cancelled += job.status == "cancelled"
            self._verdict.failed += job.status == "failed"
            self._verdict.preempted += sum(preempted)
            self._verdict.continued += len(job.fields["attempts"]) > 1
            self._verdict.tokens += sum(len(text.split()) for text in texts)
