"""The product as processes that a test can kill, pause, restart and cut off: Redis, web and workers.

Web and each worker reach Redis through a network of their own that fails when told to. Each process belongs
to one of the fleet's releases.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from harness.product import Web
from harness.proxy import Proxy
from harness.redis_server import free_port, start_redis
from harness.releases import CURRENT, Release
from harness.workers import WorkerProcess

SETTINGS = {
    "ENGINE": "echo",
    "ECHO_STEP_SECONDS": "0.02",
    "MAX_NUM_SEQS": "8",
    "LEASE_SECONDS": "1",
    "DRAIN_SECONDS": "1",
    "STEP_TIMEOUT_SECONDS": "10",
}


class Fleet:
    """Runs Redis, a web server and workers. `dead` lists workers that ended by themselves, which is a fault.

    settings: environment variables of web and workers that differ from SETTINGS.
    choices: the releases. The first one is started. app: the workers' Celery app.
    """

    def __init__(
        self,
        folder: Path,
        workers: int,
        settings: Mapping[str, str] = MappingProxyType({}),
        *,
        appendfsync: str = "always",
        choices: Sequence[Release] = (CURRENT,),
        app: str = "worker.app",
    ) -> None:
        self._folder = folder
        self._app = app
        self.releases = choices
        self._redis_port = free_port()
        self._redis_options = ("--appendonly", "yes", "--appendfsync", appendfsync)
        self._redis, self.redis_url = self._start_redis()
        self._settings = {**SETTINGS, **settings}
        self._networks = ExitStack()
        self.web_network = self._networks.enter_context(Proxy(self.redis_url))
        self.worker_networks = [self._networks.enter_context(Proxy(self.redis_url)) for _ in range(workers)]
        self.web = Web(self.web_network.url, folder, self._settings)
        self._generation = 0
        self.workers = [self._start_worker(i) for i in range(workers)]
        self.dead: list[str] = []
        for worker in self.workers:
            worker.wait_until_ready()
        self.web.start()

    def stop(self) -> None:
        self.look_for_dead()
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()
        self.web.kill()
        self._networks.close()
        self._redis.kill()
        self._redis.wait()

    def look_for_dead(self) -> None:
        """Replaces workers that ended by themselves, and adds them to `dead`."""
        for index, worker in enumerate(self.workers):
            if worker.process.poll() is not None:
                self.dead.append(
                    f"{worker.id} ended with {worker.process.returncode}:\n{worker.output()[-3000:]}"
                )
                self._replace(index)

    def is_running(self, worker: str) -> bool:
        """worker: Celery's node name."""
        return any(one.id == worker and one.process.poll() is None for one in self.workers)

    def logs(self) -> list[Path]:
        return [*self._folder.glob("*.log")]

    # --- failures

    def kill_worker(self, index: int, slots: int | None = None, release: Release | None = None) -> None:
        """Kills a worker and starts another one with this number of slots, of this release."""
        self.look_for_dead()
        self.workers[index].process.kill()
        self.workers[index].process.wait()
        self._replace(index, slots, release)

    def roll_worker(self, index: int, slots: int | None = None, release: Release | None = None) -> None:
        """Does a step of a rolling restart: the worker is told to end, drains, and is replaced."""
        self.look_for_dead()
        self.workers[index].signal(signal.SIGTERM)
        self.workers[index].wait()
        self._replace(index, slots, release)

    def pause_worker(self, index: int) -> None:
        self.workers[index].signal(signal.SIGSTOP)

    def resume_worker(self, index: int) -> None:
        self.workers[index].signal(signal.SIGCONT)

    def kill_web(self) -> None:
        self.web.kill()

    def start_web(self, release: Release | None = None) -> None:
        self.web.root = (release or self.releases[0]).root
        self.web.start()

    def kill_redis(self) -> None:
        self._redis.kill()
        self._redis.wait()

    def start_redis(self) -> None:
        self._redis, _ = self._start_redis()

    def pause_redis(self) -> None:
        self._redis.send_signal(signal.SIGSTOP)

    def resume_redis(self) -> None:
        self._redis.send_signal(signal.SIGCONT)

    def _start_redis(self) -> tuple[subprocess.Popen[bytes], str]:
        return start_redis(self._folder, *self._redis_options, port=self._redis_port)

    def _start_worker(
        self, index: int, slots: int | None = None, release: Release | None = None
    ) -> WorkerProcess:
        release = release or self.releases[0]
        variables = self._settings | {"REDIS_URL": self.worker_networks[index].url}
        if slots is not None:
            variables["MAX_NUM_SEQS"] = str(slots)
        name = f"w{index}-{self._generation}-{release.name}"
        return WorkerProcess(name, variables, self._folder / f"{name}.log", self._app, root=release.root)

    def _replace(self, index: int, slots: int | None = None, release: Release | None = None) -> None:
        self._generation += 1
        self.workers[index] = self._start_worker(index, slots, release)
