"""Measures the cost of Redis' setting `appendfsync`: always and no, compared with everysec.

    .venv/bin/python -m bench.fsync --folder /var/lib/somewhere

The append-only files are in a new folder below --folder, which has to be on the disk that you want to
measure. There is one Redis for each value, each with an echo worker of its own, and they are measured in
turns. Ratios are relative to everysec.
"""

from __future__ import annotations

import argparse
import secrets
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.stage import median, p99, print_table, redis_server, started_workers
from harness.waiting import eventually
from tasks import keys
from tasks.app import JobApp
from tasks.connection import connect
from tasks.job import Status
from tasks.leases import Claim, Leases, Outcome, WorkerInfo, Write
from tasks.log import TokenEntry
from tasks.request import parse_request
from tasks.scripts import Offer, Scripts
from tasks.settings import ANONYMOUS, EngineKind, Settings
from tasks.store import Store

MODES = ["everysec", "always", "no"]
SUBMITS, THREADS, FLUSHES = 500, 16, 500
"""Calls in one turn. One client makes the submits, then all threads together make them again."""

MODEL = "m"
ENGINE_POOL = keys.engine_pool(MODEL, "echo")
JOBS, TOKENS = 32, 500
"""Jobs in a flush and in a turn of the pipeline, and the tokens of each job."""

REQUEST = parse_request({"prompt": "Once upon a time", "max_tokens": TOKENS})
TIMEOUT_SECONDS = 120.0


class Figures:
    """The measurements of one value of `appendfsync`: a rate for each turn, milliseconds for each call."""

    def __init__(self) -> None:
        self.rates: defaultdict[str, list[float]] = defaultdict(list)
        self.milliseconds: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def rate(self, name: str, count: int) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.rates[name].append(count / (time.perf_counter() - began))

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.milliseconds[name].append(1000 * (time.perf_counter() - began))


class Bench:
    """Measures one Redis: the scripts on a queue without workers, the pipeline on the echo worker's queue."""

    def __init__(self, redis_url: str) -> None:
        self.figures = Figures()
        bare = Settings(redis_url=redis_url, model_id=MODEL, max_queued_jobs=10**6)
        self._offers: list[str] = []
        self._store = Store(Scripts(connect(bare), bare, self._send_offers))
        self._leases = Leases(Scripts(connect(bare), bare, self._send_offers))
        app = JobApp(Settings(redis_url=redis_url, engine=EngineKind.ECHO))
        self._echo_store = Store(app.scripts())

    def _send_offers(self, offers: Sequence[Offer]) -> None:
        self._offers += [job_id for _, job_id in offers]

    def turn(self) -> None:
        with self.figures.rate("submits/s, 1 client", SUBMITS):
            self._submit("submit, 1 client", SUBMITS)
        with (
            self.figures.rate(f"submits/s, {THREADS} threads", THREADS * (SUBMITS // THREADS)),
            ThreadPoolExecutor(THREADS) as pool,
        ):
            name = f"submit, {THREADS} threads"
            list(pool.map(lambda _: self._submit(name, SUBMITS // THREADS), range(THREADS)))
        self._flush()
        self._pipeline()

    def _submit(self, name: str, count: int) -> None:
        for _ in range(count):
            with self.figures.call(name):
                self._store.submit(REQUEST, ANONYMOUS)

    def _flush(self) -> None:
        """Writes one token for each job in each call, as a worker does for each step."""
        self._heartbeat(JOBS)
        claims = [self._claim(job_id) for job_id in self._offers]
        name = f"flush, {JOBS} jobs"
        with self.figures.rate(f"flushes/s, {JOBS} jobs", FLUSHES):
            for position in range(FLUSHES):
                entry = TokenEntry(0, (position,), " word").encode()
                with self.figures.call(name):
                    self._leases.flush(
                        [Write(c.job_id, c.lease_token, 1 + position, [entry]) for c in claims],
                        renew=False,
                    )
        self._heartbeat(0)
        done = Outcome(Status.COMPLETED)
        ends = [Write(c.job_id, c.lease_token, 1 + FLUSHES, outcome=done) for c in claims]
        self._leases.flush(ends, renew=False)
        self._offers.clear()

    def _heartbeat(self, slots: int) -> None:
        self._leases.heartbeat(WorkerInfo("w", MODEL, "echo", slots, 0, 0.0))

    def _claim(self, job_id: str) -> Claim:
        claim = self._leases.claim(job_id, secrets.token_hex(8), "w", ENGINE_POOL, free_slots=JOBS, held=0)
        assert isinstance(claim, Claim), claim
        return claim

    def _pipeline(self) -> None:
        completed = self._echo_store.counts()[Status.COMPLETED]
        with self.figures.rate(f"tokens/s, echo worker, {JOBS} jobs", JOBS * TOKENS):
            for _ in range(JOBS):
                self._echo_store.submit(REQUEST, ANONYMOUS)
            eventually(
                lambda: self._echo_store.counts()[Status.COMPLETED] == completed + JOBS, TIMEOUT_SECONDS
            )


def file_system(folder: Path) -> str:
    return subprocess.check_output(["stat", "-f", "-c", "%T", str(folder)], text=True).strip()


def _cells(values: Sequence[float], places: int) -> list[str]:
    """Returns the first value, then each other one with its ratio to the first."""
    first, *others = (f"{value:,.{places}f}" for value in values)
    ratios = [f"{value / values[0]:.2f}" for value in values[1:]]
    return [first, *(cell for pair in zip(others, ratios, strict=True) for cell in pair)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--repeats", type=int, default=10, help="turns of each mode")
    options = parser.parse_args()
    with ExitStack() as stack:
        benches = []
        for mode in MODES:
            # Rewriting the file would disturb the measurement at a random moment.
            redis_options = f"--appendonly yes --appendfsync {mode} --auto-aof-rewrite-percentage 0".split()
            redis_url = stack.enter_context(redis_server(*redis_options, folder=options.folder))
            variables = {"ENGINE": "echo", "ECHO_STEP_SECONDS": "0", "MAX_NUM_SEQS": str(JOBS)}
            stack.enter_context(started_workers(redis_url, 1, **variables))
            benches.append(Bench(redis_url))
        for _ in range(options.repeats):
            for bench in benches:
                bench.turn()
    figures = [bench.figures for bench in benches]
    rows = [[name, *_cells([median(f.rates[name]) for f in figures], 0)] for name in figures[0].rates]
    for name in figures[0].milliseconds:
        for word, quantile in (("median", median), ("p99", p99)):
            values = [quantile(f.milliseconds[name]) for f in figures]
            rows.append([f"{name}: {word}, ms", *_cells(values, 2)])
    print(f"append-only files on {file_system(options.folder)}, {options.repeats} turns")
    print_table(["", MODES[0], MODES[1], "ratio", MODES[2], "ratio"], rows)


if __name__ == "__main__":
    main()
