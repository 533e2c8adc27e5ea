"""The engines' processes. All of them are stopped, except for the one that is measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.engines.base import ROOT, Engine

MARK = "bench.engines:"
"""The start of lines that are for the stage. Engines print other lines."""


@dataclass(frozen=True, slots=True)
class Result:
    """tokens: the new tokens of each stream."""

    tokens_per_second: float
    tokens: list[list[int]]


class EngineProcess:
    """An engine with a model and a precision, in a process group of its own."""

    def __init__(
        self, key: str, engine: Engine, folder: Path, precision: str, environment: Mapping[str, str]
    ) -> None:
        """Starts the process and waits until it has loaded the model. key: the engine's in ENGINES."""
        self._name = f"{engine.name} in {precision}"
        self._process = subprocess.Popen(
            [str(engine.python), "-m", "bench.engines", "serve", key, str(folder), precision],
            cwd=ROOT,
            env={**os.environ, **engine.environment, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self._next_line()
        except BaseException:
            self.stop()
            raise
        self._signal(signal.SIGSTOP)

    def run(self, streams: int, temperature: float) -> Result:
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps([streams, temperature]) + "\n")
        self._process.stdin.flush()
        result = Result(*json.loads(self._next_line()))
        self._signal(signal.SIGSTOP)
        return result

    def stop(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _next_line(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return line.removeprefix(MARK)
        raise RuntimeError(f"{self._name} has ended with {self._process.wait()}")


def converted(key: str, engine: Engine, folder: Path, below: Path) -> Path:
    """Returns the folder with the model in the engine's format: `folder` itself, or one below `below`."""
    if engine.convert is None:
        return folder
    target = below / key
    if not target.exists():
        command = [str(engine.python), "-m", "bench.engines", "convert", key, str(folder), str(target)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return target


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Keeps one core busy with a process that does nothing useful."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
