"""The reaper: a Lua script that every worker and every web process calls, so it needs no leader.

It also packs the logs of ended jobs, which Lua cannot do.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import cast

from redis.exceptions import RedisError

from tasks import keys
from tasks.log import pack
from tasks.messages import Message
from tasks.scripts import Scripts

MAX_JOBS_PER_CALL = 100
"""The most jobs of one kind that one call moves; the next call follows at once."""

MIN_PAUSE_SECONDS = 0.05
"""The least pause of a process between two calls, however much is due."""

FUTILE_ERROR_CODES = {"prompt_too_long", "invalid_messages", "invalid_prompt"}
"""A job that ended with one of these would end in the same way again."""

KEPT_CHARACTERS = 200
KEPT_MESSAGES = 4

LONGEST_PAUSE_SECONDS = 1.0
"""The longest pause, so that a new worker's lifeline is seen soon, however long leases are."""

logger = logging.getLogger(__name__)


class Reaper:
    """Calls the script when something is due, and at least HEARTBEATS_PER_LEASE times per lease.

    Its thread is a greenlet in a gevent process.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._redis = scripts.redis
        self._lease_seconds = scripts.settings.lease_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def reap(self) -> float:
        """Runs the script once. Returns the seconds until something is due again. Raises RedisError."""
        answer = self._scripts.call("reap", most=MAX_JOBS_PER_CALL, longest_gap=self._lease_seconds)
        for worker in answer["dead"]:
            logger.warning("%s died, its jobs continue on other workers", worker)
        for job_id in answer["dangling"]:
            logger.error("the record of %s is missing or damaged, so the job is lost", job_id)
        for job_id in answer["to_pack"]:
            self.pack(job_id)
        return float(answer["due_in"])

    def pack(self, job_id: str) -> bool:
        """Packs an ended job's log. Returns whether it is packed now. Raises RedisError.

        The request of a job that can never run is cut short, because nobody needs all of it.
        """
        entries = cast("list[str]", self._redis.lrange(keys.log(job_id), 0, -1))
        code, request = cast("list[str | None]", self._redis.hmget(keys.job(job_id), "error_code", "request"))
        short = shortened(request) if request and code in FUTILE_ERROR_CODES else ""
        answer = self._scripts.call(
            "pack", id=job_id, length=len(entries), packed=pack(entries), short_request=short
        )
        return answer.status == "packed"

    def _run(self) -> None:
        longest = min(self._lease_seconds / keys.HEARTBEATS_PER_LEASE, LONGEST_PAUSE_SECONDS)
        pause = 0.0
        while not self._stop.wait(max(MIN_PAUSE_SECONDS, min(pause, longest))):
            try:
                pause = self.reap()
            except RedisError as error:
                logger.warning("the reaper could not reach Redis: %s", error)
                pause = longest


def shortened(request: str) -> str:
    """Returns a request (JSON) with only the start of its prompt or messages, or "" if that saves nothing."""
    fields = json.loads(request)
    if "prompt" in fields:
        fields["prompt"] = fields["prompt"][:KEPT_CHARACTERS]
    elif "prompt_token_ids" in fields:
        fields["prompt_token_ids"] = fields["prompt_token_ids"][:KEPT_CHARACTERS]
    else:
        messages = [Message.model_validate(message) for message in fields["messages"][:KEPT_MESSAGES]]
        fields["messages"] = [
            {"role": message.role, "content": message.text[:KEPT_CHARACTERS]} for message in messages
        ]
    short = json.dumps(fields, ensure_ascii=False)
    return short if len(short) < len(request) else ""
