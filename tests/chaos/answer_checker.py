"""A client without the client library that notes each answer, and checks at the end whether it was true."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx

from tests.chaos.clients import Verdict

CALL_SECONDS = 3.0
PAUSE_SECONDS = 0.05
LABEL = "answer checker"


class AnswerChecker:
    """Submits jobs without an Idempotency-Key and never retries."""

    def __init__(self, url: str, verdict: Verdict, stop: threading.Event) -> None:
        self._http = httpx.Client(base_url=url, timeout=CALL_SECONDS)
        self._verdict = verdict
        self._stop = stop
        self.thread = threading.Thread(target=self._run, name=LABEL)
        self._accepted: dict[str, str] = {}
        """Label -> the job's id."""
        self._refused: dict[str, str] = {}
        """Label -> the answer's detail."""
        self.unknown = 0
        """The number of submits without an answer, or with the answer that the outcome is unknown."""

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(PAUSE_SECONDS):
            number += 1
            self._submit(str(number))

    def _submit(self, label: str) -> None:
        body = {"prompt": "a b", "max_tokens": 2, "metadata": {LABEL: label}}
        try:
            answer = self._http.post("/v1/jobs", json=body)
        except httpx.HTTPError:
            self.unknown += 1
            return
        told = answer.json()
        if answer.status_code == 202:
            self._accepted[label] = told["id"]
        elif answer.status_code == 503 and told["code"] == "outcome_unknown":
            self.unknown += 1
        elif answer.status_code == 503 and "was accepted before" in told["detail"]:
            self._accepted[label] = answer.headers["Location"].rpartition("/")[2]
        elif answer.status_code in (429, 503):
            self._refused[label] = told["detail"]
        else:
            self._fault(f"{label}: {answer.status_code} {answer.text}")

    def judge(self) -> None:
        """Compares the answers with the stored jobs. Call it when the whole fleet runs again."""
        stored = {job["metadata"][LABEL]: job for job in self._jobs() if LABEL in job["metadata"]}
        for label, job_id in self._accepted.items():
            if label not in stored or stored[label]["id"] != job_id:
                self._fault(f"{label}: {job_id} was accepted and is not there")
            elif self._end(job_id) != "completed":
                self._fault(f"{label}: {job_id} was accepted and did not complete")
        for label in self._refused.keys() & stored.keys():
            self._fault(f"{label}: told {self._refused[label]!r}, but {stored[label]['id']} is there")

    def close(self) -> None:
        self._http.close()

    def __str__(self) -> str:
        return f"{len(self._accepted)} accepted, {len(self._refused)} refused, {self.unknown} not known"

    def _jobs(self) -> Iterator[dict[str, Any]]:
        after: dict[str, str] = {}
        while True:
            page = self._http.get("/v1/jobs", params={"limit": "100", **after}).raise_for_status().json()
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"after": page["last_id"]}

    def _end(self, job_id: str) -> str:
        url = f"/v1/jobs/{job_id}"
        return str(self._http.get(url, params={"wait": "60"}, timeout=90).raise_for_status().json()["status"])

    def _fault(self, text: str) -> None:
        with self._verdict.lock:
            self._verdict.faults.append(f"{LABEL} {text}")
