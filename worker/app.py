"""The worker's Celery app: `celery -A worker.app worker -E`, and Flower's."""

from __future__ import annotations

import logging
import sys
from typing import Any

from celery.app import trace
from celery.signals import task_revoked
from redis.exceptions import RedisError

import tasks
from tasks import generate
from tasks.errors import JobNotFoundError, SettingsError
from worker.bootstep import EngineStep
from worker.delivery_probe import DeliveryProbeStep

logger = logging.getLogger(__name__)


class WithoutRuntime(logging.Filter):
    """Takes `succeeded in 0.0002s` out of Celery's line about a task.

    It is the time of the task's body, which only hands over the outcome. The job's `metrics` have the true
    times.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == trace.LOG_SUCCESS:
            record.msg = "Task %(name)s[%(id)s] ended: %(return_value)s"
        return True


logging.getLogger(trace.__name__).addFilter(WithoutRuntime())

try:
    app = tasks.get_app()
except SettingsError as error:
    sys.exit(f"worker: {error}")

app.conf.worker_pool = f"{__package__}.celery_pool:BatchPool"
app.conf.worker_consumer = f"{__package__}.celery_consumer:ReconnectingConsumer"
app.conf.worker_concurrency = app.settings.max_num_seqs
app.steps["worker"].add(EngineStep)
app.steps["consumer"].add(DeliveryProbeStep)
generate.register(app)


@task_revoked.connect
def cancel_record(request: Any, **_: Any) -> None:
    """Cancels the job of a revoked task, whether it waits or, with `terminate`, runs."""
    try:
        tasks.get_store().cancel(request.id)
    except JobNotFoundError:
        logger.info("revoked %s, which has no record", request.id)
    except RedisError as error:
        logger.error("revoked %s, but could not cancel its job: %s", request.id, error)
