"""Watches Redis and the logs. Does a job wait while a worker is free? Was a living worker taken for dead?"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from tasks import keys
from tasks.script_source import assemble
from tasks.scripts import SHARED_ARGUMENTS
from tests.chaos.clients import Verdict
from tests.chaos.fleet import SETTINGS, Fleet

SCRIPT = assemble(Path(__file__).parent / "watch.lua", SHARED_ARGUMENTS)
LOOK_SECONDS = 0.25
STUCK_SECONDS = 20.0
"""Longer than any outage: processes are paused and cut off for 4 s at most."""

DEAD = re.compile(r"(\S+@test) died, its jobs continue")


class Watch:
    """A thread that looks for faults while failures happen."""

    def __init__(self, fleet: Fleet, verdict: Verdict) -> None:
        self._fleet = fleet
        self._verdict = verdict
        self._seen: dict[str, float] = {}
        """What the script found -> the time since when it finds it."""
        self._read: dict[Path, int] = {}
        """Log -> how many bytes of it have been read."""
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="watch")
        self.dead = 0
        """The number of workers whose death was noticed by their lifelines."""

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self._stop.set()
        self.thread.join()

    def _run(self) -> None:
        with Redis.from_url(self._fleet.redis_url, decode_responses=True, socket_timeout=1) as redis:
            while not self._stop.wait(LOOK_SECONDS):
                self._look_at_logs()
                try:
                    self._look_at_jobs(redis)
                except RedisError:
                    self._seen.clear()  # Redis is paused or starts, so jobs have to wait.

    def _look_at_jobs(self, redis: Redis) -> None:
        arguments = (keys.PREFIX, SETTINGS["LEASE_SECONDS"], keys.RESEND_OFFER_SECONDS, 86_400)
        found = set(redis.eval(SCRIPT.text, 0, *map(str, arguments)))
        now = time.monotonic()
        self._seen = {text: self._seen.get(text, now) for text in found}
        for text, since in self._seen.items():
            if now - since > STUCK_SECONDS:
                self._fault(f"stuck for {STUCK_SECONDS} s: {text}")
                self._seen[text] = now

    def _look_at_logs(self) -> None:
        for log in self._fleet.logs():
            with log.open("rb") as file:
                file.seek(self._read.get(log, 0))
                text = file.read()
            whole_lines = text[: text.rfind(b"\n") + 1]
            self._read[log] = self._read.get(log, 0) + len(whole_lines)
            for worker in DEAD.findall(whole_lines.decode()):
                self.dead += 1
                if self._fleet.is_running(worker):
                    self._fault(f"{worker} was taken for dead and lives")

    def _fault(self, text: str) -> None:
        with self._verdict.lock:
            self._verdict.faults.append(text)
