"""Runs supervisor in this process, for its restarts with backoff and its ordered stop.

The alternatives do less: honcho ends everything when one child dies; circus restarts without backoff and
opens three TCP ports for itself. This module adds four things that supervisor lacks: each line shows the name
of its process, the exit code tells of a failed start, no second is lost between the stops of two processes,
and a second Ctrl-C stops at once.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisor import events, loggers, poller
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.states import SupervisorStates
from supervisor.supervisord import Supervisor

from deploy.console import Console, prefix
from tasks.parent import end_with_parent

CONFIG = Path(__file__).with_name("supervisord.conf")

ESCALATE_AFTER_SECONDS = 1.0
"""A signal to the process group arrives twice, directly and through make; a person takes longer than this."""

MANY_SIGNALS = 4096
"""More signals than can be pending; each is a byte in the socket."""

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGQUIT}

IMMEDIATE_STOP_SIGNALS = {"worker": signal.SIGQUIT, "web": signal.SIGQUIT}
"""The worker releases its jobs instead of draining; gunicorn drops its requests. Redis ends fast anyway."""


class WakingPoller(poller.Poller):  # type: ignore[misc]
    """Returns as soon as a signal arrives.

    supervisor's own poller waits for up to another second, after the signal to stop and after each process.
    """

    def initialize(self) -> None:
        super().initialize()
        self._woken, self._waking = socket.socketpair()
        self._woken.setblocking(False)
        self._waking.setblocking(False)
        self.register_readable(self._woken.fileno())
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)

    def poll(self, timeout: float) -> tuple[list[int], list[int]]:
        readable, writable = super().poll(timeout)
        if self._woken.fileno() in readable:
            self._woken.recv(MANY_SIGNALS)
            readable.remove(self._woken.fileno())
        return readable, writable


class Options(ServerOptions):  # type: ignore[misc]
    """supervisor's options, read from our file, with logging to our console."""

    def __init__(self, programs: Collection[str], console: Console) -> None:
        super().__init__()
        self.poller = WakingPoller(self)
        self._console = console
        self._own_pid = os.getpid()
        self.realize(["--nodaemon", "--configuration", str(CONFIG)])
        groups: list[Any] = vars(self)["process_group_configs"]
        self.process_group_configs = [group for group in groups if group.name in programs]
        # As supervisor's own main() has them.
        self.first, self.test = True, False
        self.told_to_stop_at: list[float] = []
        """Monotonic times."""

    def make_logger(self) -> None:
        self.logger = loggers.getLogger(self.loglevel)
        handler = loggers.StreamHandler(self._console)
        handler.setFormat(f"{prefix('serve')}%(message)s\n")
        handler.setLevel(self.loglevel)
        self.logger.addHandler(handler)

    def get_signal(self) -> int | None:
        number: int | None = super().get_signal()
        if number in (signal.SIGINT, signal.SIGTERM):
            self.told_to_stop_at.append(time.monotonic())
        return number

    def fork(self) -> int:
        """Forks so that a signal ends the child even before its exec.

        The child inherits our handlers. They only record a signal, and the exec would lose the record.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            pid: int = super().fork()
            if pid == 0:
                for number in STOP_SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return pid

    def execve(self, filename: str, argv: list[str], env: dict[str, str]) -> None:
        """Runs in the child and ties its life to ours, so that it ends if we are killed.

        Worker and web must stop at once then: the embedded Redis ends at the same time.
        """
        name = env["SUPERVISOR_PROCESS_NAME"]
        end_with_parent(self._own_pid, IMMEDIATE_STOP_SIGNALS.get(name, signal.SIGTERM))
        super().execve(filename, argv, env)


class ForegroundSupervisor(Supervisor):  # type: ignore[misc]
    """Runs the programs until it is told to stop, or until one of them dies before all are ready.

    is_ready: called every second until it returns True; then `ready_line` is printed, once.
    """

    def __init__(self, programs: Collection[str], is_ready: Callable[[], bool], ready_line: str) -> None:
        self._console = Console()
        super().__init__(Options(programs, self._console))
        self._is_ready = is_ready
        self._ready_line = ready_line
        self._was_ready = False
        self._has_escalated = False
        self._waits_for = ""
        self.failure: str | None = None
        """Why the start failed; None if it did not."""

    def runforever(self) -> None:
        events.subscribe(events.ProcessLogEvent, self._print_output)
        events.subscribe(events.ProcessStateEvent, self._watch_start)
        with suppress(asyncore.ExitNow):
            super().runforever()

    def tick(self, now: float | None = None) -> None:
        """Runs at the end of each turn of supervisor's loop, at least once a second."""
        super().tick(now)
        if self.options.mood == SupervisorStates.RUNNING and not self._was_ready and self._is_ready():
            self._was_ready = True
            self._console.write(f"{self._ready_line}\n")
        told_at = self.options.told_to_stop_at
        if not self._has_escalated and told_at and told_at[-1] - told_at[0] > ESCALATE_AFTER_SECONDS:
            self._has_escalated = True
            self._stop_at_once()

    def shutdown_report(self) -> list[Any]:
        """Returns the processes that still run, and names them whenever one more has ended.

        supervisor itself repeats the same line every three seconds.
        """
        groups = self.process_groups.values()
        unstopped = [process for group in groups for process in group.get_unstopped_processes()]
        names = ", ".join(process.config.name for process in unstopped)
        if names not in ("", self._waits_for):
            hint = "" if self._has_escalated else "; Ctrl-C again stops at once"
            self.options.logger.info(f"waiting for {names} to end{hint}")
        self._waits_for = names
        return unstopped

    def _stop_at_once(self) -> None:
        for name, number in IMMEDIATE_STOP_SIGNALS.items():
            process = self.process_groups[name].processes[name]
            if process.pid:
                self.options.logger.warn(f"told twice to stop: {name} stops at once")
                os.kill(process.pid, number)

    def _watch_start(self, event: Any) -> None:
        died = isinstance(event, events.ProcessStateBackoffEvent | events.ProcessStateExitedEvent)
        if died and not self._was_ready and self.failure is None:
            name = event.process.config.name
            last_line = self._console.last_lines.get(name, "it printed nothing")
            self.failure = f"{name} ended before it was ready: {last_line}"
            self.options.mood = SupervisorStates.SHUTDOWN

    def _print_output(self, event: Any) -> None:
        self._console.print_output(event.process.config.name, event.data)
