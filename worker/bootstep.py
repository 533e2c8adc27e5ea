"""Loads the model and warms it up before Celery consumes. An error here ends the process.

This is a bootstep because Celery ignores exceptions of signal handlers.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutting_down
from celery.worker.state import maybe_shutdown
from redis import Redis

from tasks.connection import connect
from tasks.durability import check_durability
from tasks.errors import SettingsError, TokenrelayError
from tasks.leases import Leases
from tasks.reaper import Reaper
from tasks.settings import EngineKind, Settings
from worker.delivery_probe import DeliveryProbe
from worker.engine import load_engine
from worker.engine.base import Engine
from worker.flusher import Flusher
from worker.lifeline import Lifeline

logger = logging.getLogger(__name__)


class EngineStep(bootsteps.StartStopStep):
    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        settings = worker.app.settings
        redis = connect(settings)
        with _stopped_at_once():
            _check_redis(redis)
            engine = load(settings)
        leases = Leases(worker.app.scripts(redis))
        probe = DeliveryProbe(worker.app, worker.hostname, settings.step_timeout_seconds)
        lifeline = Lifeline(connect(settings), worker.hostname)
        lifeline.start()
        flusher = Flusher(engine, leases, settings, worker.hostname, probe, lifeline.channel)
        worker.pool.serve(flusher, probe, settings.drain_seconds)
        Reaper(worker.app.scripts()).start()
        logger.info(
            "serving %s: %d slots, length %d", engine.model, engine.max_num_seqs, engine.max_model_len
        )


@contextmanager
def _stopped_at_once() -> Iterator[None]:
    """Ends the process as soon as it is told to stop during the load, when it has no jobs to give back.

    Celery itself would only set a flag on the signal, and the load would continue.
    """
    worker_shutting_down.connect(_end_process)
    try:
        maybe_shutdown()  # The signal may have come before.
        yield
    finally:
        worker_shutting_down.disconnect(_end_process)


def _end_process(exitcode: int, **_: Any) -> None:
    os._exit(exitcode)


def _check_redis(redis: Redis) -> None:
    try:
        check_durability(redis)
    except SettingsError as error:
        logger.critical("%s", error)
        raise SystemExit(1) from None


def load(settings: Settings) -> Engine:
    """Returns the engine, warmed up. Ends the process with an error if the model cannot be served."""
    logger.info("loading %s with the %s engine", settings.model, settings.engine)
    try:
        engine = _warm_engine(settings)
    except TokenrelayError as error:
        logger.critical("%s", error)
        raise SystemExit(1) from None
    # torch and transformers are 380,000 objects that stay. A full garbage collection looks at all of them and
    # stops every thread for 0.3 s, in the middle of all streams. It skips what is frozen.
    gc.collect()
    gc.freeze()
    return engine


def _warm_engine(settings: Settings) -> Engine:
    if settings.engine is not EngineKind.TRANSFORMERS:
        # vLLM's processes die with the thread that started them (`worker.engine.vllm.bound`).
        return _load_and_warm_up(settings)
    # In a thread that ends. OpenMP keeps threads for each thread that has computed, until that one ends. If
    # it keeps more than there are cores, they no longer spin while they wait for one another, and each of
    # the thirty waits of a step becomes a system call.
    with ThreadPoolExecutor(1, "loader") as loader:
        return loader.submit(_load_and_warm_up, settings).result()


def _load_and_warm_up(settings: Settings) -> Engine:
    engine = load_engine(settings)
    engine.warm_up()
    return engine
