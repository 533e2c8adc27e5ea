"""Injects random failures under load: `python -m tests.chaos.run --seconds 180 --seed 7`, or `make chaos`."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from harness.proxy import Proxy
from harness.releases import Release, releases
from tests.chaos.answer_checker import AnswerChecker
from tests.chaos.clients import ChaosClient, Verdict
from tests.chaos.fleet import Fleet
from tests.chaos.watch import Watch

CLIENTS = 12
WORKERS = 3
SLOTS = (2, 4, 8)
"""Numbers of slots that a worker may have. Jobs take up to 4."""
PAUSE_BETWEEN_SECONDS = (0.5, 3.0)
OUTAGE_SECONDS = (0.1, 4.0)
"""How long a process is paused, or stays dead before it is started again. Leases are 1 s."""

DELAY_SECONDS = (0.01, 0.15)
"""The delay of each message between a process and a slow Redis, in either direction."""

LAST_JOBS_SECONDS = 120.0
"""How long the last jobs may take after the last failure."""


class Chaos:
    """Draws failures from a seed. Each one ends before the next begins."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._random = random.Random(seed)
        self.acts: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        acts: list[Callable[[], None]] = [
            self.kill_worker,
            self.kill_worker,
            self.roll_worker,
            self.pause_worker,
            self.restart_web,
            self.restart_redis,
            self.pause_redis,
            self.cut_off_worker,
            self.cut_off_web,
            self.close_connections,
            self.slow_down,
            self.narrow,
            self.lose_answers,
        ]
        while time.monotonic() < deadline:
            time.sleep(self._random.uniform(*PAUSE_BETWEEN_SECONDS))
            act = self._random.choice(acts)
            self.acts[act.__name__] += 1
            act()
        self._fleet.look_for_dead()

    def restore(self) -> None:
        """Starts workers that can run every accepted job."""
        for index in range(WORKERS):
            self._fleet.roll_worker(index, max(SLOTS), self._fleet.releases[-1])

    def kill_worker(self) -> None:
        """The next worker may have another number of slots and another release."""
        self._fleet.kill_worker(self._any_worker(), self._any_slots(), self._any_release())

    def roll_worker(self) -> None:
        self._fleet.roll_worker(self._any_worker(), self._any_slots(), self._any_release())

    def narrow(self) -> None:
        """Replaces all workers by narrow ones of the first release. For a while, some jobs cannot run."""
        for index in range(WORKERS):
            self._fleet.kill_worker(index, min(SLOTS), self._fleet.releases[0])
        self._outage()
        self._fleet.roll_worker(self._any_worker(), max(SLOTS), self._fleet.releases[-1])

    def pause_worker(self) -> None:
        index = self._any_worker()
        self._fleet.pause_worker(index)
        self._outage()
        self._fleet.resume_worker(index)

    def restart_web(self) -> None:
        """The next web server may have another release."""
        self._fleet.kill_web()
        self._outage()
        self._fleet.start_web(self._any_release())

    def restart_redis(self) -> None:
        self._fleet.kill_redis()
        self._outage()
        self._fleet.start_redis()

    def pause_redis(self) -> None:
        self._fleet.pause_redis()
        self._outage()
        self._fleet.resume_redis()

    def cut_off_worker(self) -> None:
        """Makes a partition: the worker's connections stay open and nothing passes."""
        self._blackhole(self._fleet.worker_networks[self._any_worker()])

    def cut_off_web(self) -> None:
        self._blackhole(self._fleet.web_network)

    def close_connections(self) -> None:
        """Closes every connection to Redis. New connections work."""
        for network in self._networks():
            network.cut()

    def lose_answers(self) -> None:
        """Redis executes what web asks for, and web gets no answer."""
        network = self._fleet.web_network
        network.hold_answers()
        self._outage()
        network.cut()
        network.heal()

    def slow_down(self) -> None:
        """Delays Redis' answers."""
        for network in self._networks():
            network.delay(self._random.uniform(*DELAY_SECONDS))
        self._outage()
        for network in self._networks():
            network.heal()

    def _blackhole(self, network: Proxy) -> None:
        network.blackhole()
        self._outage()
        network.heal()

    def _networks(self) -> list[Proxy]:
        return [self._fleet.web_network, *self._fleet.worker_networks]

    def _any_worker(self) -> int:
        return self._random.randrange(WORKERS)

    def _any_slots(self) -> int:
        return self._random.choice(SLOTS)

    def _any_release(self) -> Release:
        return self._random.choice(self._fleet.releases)

    def _outage(self) -> None:
        time.sleep(self._random.uniform(*OUTAGE_SECONDS))


def run(folder: Path, seconds: float, seed: int) -> tuple[Verdict, Counter[str]]:
    """Returns the verdict, with faults of the fleet, and the number of failures of each kind."""
    choices = releases(folder)
    fleet = Fleet(folder, WORKERS, choices=choices, app="tests.chaos.faulty_tokenizer")
    verdict, stop = Verdict(), threading.Event()
    url = fleet.web.url
    clients = [ChaosClient(url, f"c{i}", seed, verdict, stop, choices) for i in range(CLIENTS)]
    checker = AnswerChecker(url, verdict, stop)
    chaos, watch = Chaos(fleet, seed), Watch(fleet, verdict)
    threads = [*(client.thread for client in clients), checker.thread]
    try:
        watch.start()
        for thread in threads:
            thread.start()
        chaos.run(seconds)
        chaos.restore()
    finally:
        stop.set()
        for thread in threads:
            thread.join(LAST_JOBS_SECONDS)
        watch.stop()
    verdict.faults += [f"{thread.name} still waits" for thread in threads if thread.is_alive()]
    try:
        checker.judge()
    finally:
        checker.close()
        fleet.stop()
    verdict.faults += fleet.dead
    ended = verdict.completed + verdict.cancelled + verdict.failed
    if verdict.accepted != ended and not verdict.faults:
        verdict.faults.append("a client ended without a verdict on its job")
    verdict.notes += [f"answers checked: {checker}", f"deaths noticed by lifelines: {watch.dead}"]
    return verdict, chaos.acts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        verdict, acts = run(Path(folder), options.seconds, options.seed)
    print(f"seed {options.seed}, {options.seconds:.0f} s: {dict(acts)}")
    print(verdict)
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
