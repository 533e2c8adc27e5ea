"""Two workers of the bundled model and a web server, as OpenAI's SDK sees them."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

from harness.product import Web
from harness.redis_server import start_redis
from harness.waiting import TIMEOUT_SECONDS
from harness.workers import ROOT, WorkerProcess, start_workers
from tasks.app import JobApp
from tasks.settings import Settings
from tasks.store import Store

BUNDLED = ROOT / "worker/models/bundled"
MODEL = "model"
"""The name of a model in a folder is the folder's."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Two workers of one model. model: its folder."""

    model: str
    workers: list[WorkerProcess]
    store: Store

    def kill(self, worker: str) -> None:
        """Ends the worker with this id at once."""
        next(one for one in self.workers if one.id == worker).signal(signal.SIGKILL)

    @contextmanager
    def sdk(self, folder: Path) -> Iterator[OpenAI]:
        """A client of a web server that logs into a folder."""
        environment = {"ENGINE": "transformers", "MODEL_ID": self.model}
        web = Web(self.store.scripts.settings.required_redis_url, folder, environment)
        options: dict[str, Any] = {"api_key": "any", "max_retries": 0, "timeout": TIMEOUT_SECONDS}
        with web.started(), OpenAI(base_url=f"{web.url}/v1", **options) as opened:
            yield opened


@contextmanager
def bundled_fleet(folder: Path, response_template: Mapping[str, Any] | None = None) -> Iterator[Fleet]:
    """Workers of the bundled model, with a chat template that shows tools."""
    model = shutil.copytree(BUNDLED, folder / MODEL, symlinks=True)
    template = model / "chat_template.jinja"
    shown = "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}"
    template.write_text(shown + template.read_text())
    if response_template is not None:
        config = model / "tokenizer_config.json"
        known = json.loads(config.read_text())
        config.write_text(json.dumps({**known, "response_template": response_template}))
    redis, url = start_redis(folder)
    variables = {"REDIS_URL": url, "LEASE_SECONDS": "1", "OMP_NUM_THREADS": "1", "DTYPE": "float32"}
    try:
        with start_workers("one", "two", folder=folder, MODEL_ID=str(model), **variables) as running:
            yield Fleet(str(model), running, Store(JobApp(Settings(redis_url=url)).scripts()))
    finally:
        redis.kill()
        redis.wait()
