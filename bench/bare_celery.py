"""A plain Celery app, which `bench.jobs` compares with: one task that returns a short text."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("bare", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(worker_hijack_root_logger=False)


@app.task
def one_word(prompt: str) -> str:
    return prompt.split()[0]
