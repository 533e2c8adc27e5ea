"""The Celery app: how jobs reach workers. Web, worker and other processes have the same configuration."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Self

from celery import Celery, _state
from celery.app.amqp import AMQP
from kombu import Connection, Queue
from kombu.exceptions import OperationalError
from redis import Redis

from tasks import keys
from tasks.connection import CALL_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS, connect
from tasks.redis_url import for_celery
from tasks.scripts import Offer, Scripts
from tasks.settings import Settings
from tasks.store import Store
from tasks.transport import PrimaryTransport

TASK = "tokenrelay.generate"
"""The one task: `generate(job_id)`, an attempt at a job. Its task id is the job's id."""

logger = logging.getLogger(__name__)


DEFAULT_QUEUE = f"tokenrelay.{keys.SCHEMA}"
"""Celery needs one, but nothing is sent there: each worker has a queue of its own."""


def celery_queue(worker: str) -> Queue:
    """Returns the queue of one worker. Its name contains the schema number, like our keys.

    The queue is bound to no exchange, because kombu would keep a binding for every worker that ever existed.
    """
    name = f"{DEFAULT_QUEUE}.{worker}"
    return Queue(name, routing_key=name, no_ack=True)


class PromptConnection(Connection):
    """Retries every second or two to reach a broker. Celery's own pause grows to half a minute.

    It also leaves a broker that has become a replica.
    """

    def get_transport_cls(self) -> type[PrimaryTransport]:
        return PrimaryTransport

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Self:
        pauses = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 2.0}
        return super().ensure_connection(*args, **(pauses | kwargs))


class PromptAMQP(AMQP):
    Connection = PromptConnection


class JobApp(Celery):
    """A Celery app on the settings' Redis. It becomes Celery's current app if the process has no other."""

    amqp_cls = f"{__package__}.app:PromptAMQP"

    def __init__(self, settings: Settings) -> None:
        broker, tls = for_celery(settings.required_redis_url)
        super().__init__(
            "tokenrelay",
            broker=broker,
            backend=f"{__package__}.backend:RecordBackend",
            set_as_current=not _state._apps,  # type: ignore[attr-defined]
        )
        self.settings = settings
        self.store = Store(self.scripts())
        """Shared by all threads and greenlets that use this app, and by its result backend."""
        self.conf.update(
            # A message only tells a worker of an offer. The record decides, and a lost message is sent again.
            # So it needs no acknowledgement: see `tasks.generate.OfferRequest`.
            task_queues=[Queue(DEFAULT_QUEUE, no_ack=True)],
            task_default_queue=DEFAULT_QUEUE,
            task_acks_late=False,
            worker_enable_prefetch_count_reduction=False,
            # A message that is taken before a slot is free would wait at this worker while another one idles.
            worker_disable_prefetch=True,
            worker_cancel_long_running_tasks_on_connection_loss=False,
            worker_hijack_root_logger=False,
            task_serializer="json",
            result_serializer="json",
            # Otherwise Celery would build one for each thread, and in the web each connection is a thread.
            result_backend_thread_safe=True,
            accept_content=["json"],
            task_track_started=True,
            broker_connection_retry_on_startup=True,
            broker_connection_max_retries=None,
            broker_use_ssl=tls or False,
            broker_transport_options={
                "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "socket_timeout": CALL_TIMEOUT_SECONDS,
            },
        )

    def scripts(self, redis: Redis | None = None) -> Scripts:
        """Returns the transitions, on connections of their own unless `redis` is given.

        Their offers are sent through this app.
        """
        return Scripts(redis or connect(self.settings), self.settings, self.send_offers)

    def send_offers(self, offers: Sequence[Offer]) -> None:
        """Sends each offer to its worker's queue. The reaper sends offers again that cannot be sent now."""
        for worker, job_id in offers:
            try:
                queue: Any = celery_queue(worker)  # Celery's stub knows names only.
                # Nothing is declared, because a list in Redis needs no declaration, and it takes time.
                self.send_task(TASK, (job_id,), task_id=job_id, queue=queue, retry=False, declare=[])
            except OperationalError as error:
                logger.warning("could not send %s to Celery, the reaper will: %s", job_id, error)
