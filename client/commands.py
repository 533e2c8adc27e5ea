"""The client's commands: submit, watch, jobs and cancel.

Each prints what was asked for on stdout and everything else on stderr, and returns the exit code: 0 if the
job completed or the server did as it was told, else 1.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TypeAlias

from client.api import DEFAULT_URL, Client
from client.errors import ClientError, UnauthorizedError, UnreachableError, WaitTimeoutError
from client.job import Job, JobSummary
from client.notices import Notices, say

POSITION_POLL_SECONDS = 1.0
"""How often the position of a waiting job is asked for."""

CANCEL_SECONDS = 5.0
"""How long to wait for a cancelled job's end. After that, its status is shown as it is."""

PROMPT_WIDTH = 40
"""How many characters of the prompt `jobs` shows."""

Command = Callable[[Client, Notices, argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_to(commands: Commands) -> None:
    """Adds the commands to a parser's sub-commands."""
    submit = _add(
        commands, "submit", run_submit, "submit a prompt and print the text as it comes; Ctrl-C cancels"
    )
    submit.add_argument("prompt", metavar="PROMPT")
    submit.add_argument("--max-tokens", type=int, metavar="N")
    submit.add_argument("--temperature", type=float, metavar="T", help="0 to 2; 0 takes the likeliest token")
    submit.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text")
    submit.add_argument("--model", metavar="NAME", help="one of the models that the server offers")
    submit.add_argument("--detach", action="store_true", help="print the job's id and leave it running")

    watch = _add(
        commands, "watch", run_watch, "print an earlier job's text as it comes; Ctrl-C leaves it running"
    )
    watch.add_argument("id", metavar="ID")

    jobs = _add(commands, "jobs", run_jobs, "list your jobs, newest first")
    jobs.add_argument("--status", metavar="STATUS", help="only jobs with this status")
    jobs.add_argument("--limit", type=int, default=20, metavar="N", help="1 to 100, 20 by default")
    jobs.add_argument("--after", metavar="ID", help="only jobs that are older than this one")

    cancel = _add(commands, "cancel", run_cancel, "cancel a job and print its status")
    cancel.add_argument("id", metavar="ID")


def _add(commands: Commands, name: str, command: Command, description: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=description, description=f"{description[0].upper()}{description[1:]}."
    )
    parser.set_defaults(run=lambda options: _run(command, options))
    url = os.environ.get("TOKENRELAY_URL") or DEFAULT_URL
    parser.add_argument("--url", default=url, help="the server; or set TOKENRELAY_URL")
    key = os.environ.get("TOKENRELAY_API_KEY")
    parser.add_argument("--api-key", default=key, metavar="KEY", help="or set TOKENRELAY_API_KEY")
    return parser


def _run(command: Command, options: argparse.Namespace) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # A terminal that is not UTF-8 lacks some characters.
    notices = Notices(options.url)
    try:
        with Client(options.url, options.api_key, on_retry=notices.retrying) as client:
            status = command(client, notices, options)
            sys.stdout.flush()  # While the error can still be caught.
            return status
    except BrokenPipeError:
        _stop_printing()
        return 1
    except UnreachableError as error:
        say(f"{error}; is the server running? --url or TOKENRELAY_URL names another one")
        return 1
    except UnauthorizedError as error:
        say(f"{error}; --api-key or TOKENRELAY_API_KEY names the key")
        return 1
    except ClientError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 1


def run_submit(client: Client, notices: Notices, options: argparse.Namespace) -> int:
    fields = {name: getattr(options, name) for name in ("max_tokens", "temperature", "seed", "model")}
    with notices.expecting():
        job = client.submit(options.prompt, **{n: value for n, value in fields.items() if value is not None})
    if options.detach:
        print(job.id)
        return 0
    try:
        return _print_text(client, notices, job)
    except KeyboardInterrupt:
        silence = f"no answer to the cancel of {job.id} yet; waiting, Ctrl-C ends this command"
        job = _cancelled(client, notices, job.id, silence)
        say(f"\n{job.id} is {job.status}")
        return 1
    except BrokenPipeError:
        _stop_printing()
        with notices.expecting():
            client.cancel(job.id)
        return 1


def run_watch(client: Client, notices: Notices, options: argparse.Namespace) -> int:
    with notices.expecting():
        job = client.get(options.id)
    return _print_text(client, notices, job)


def run_jobs(client: Client, notices: Notices, options: argparse.Namespace) -> int:
    with notices.expecting():
        page = client.summaries(options.status, options.limit, options.after)
    for job in page.jobs:
        print(_row(job))
    if page.has_more:
        say(f"there are older ones: --after {page.jobs[-1].id}")
    return 0


def run_cancel(client: Client, notices: Notices, options: argparse.Namespace) -> int:
    print(_cancelled(client, notices, options.id).status)
    return 0


def _stop_printing() -> None:
    """Nobody reads the text any more. Python would complain again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _cancelled(client: Client, notices: Notices, job_id: str, silence: str | None = None) -> Job:
    """Cancels a job and returns it when it has ended: a running one ends after the engine's present step."""
    with notices.expecting(silence):
        job = client.cancel(job_id)
        if not job.is_ended:
            with suppress(WaitTimeoutError):
                job = client.wait(job_id, CANCEL_SECONDS)
    return job


def _row(job: JobSummary) -> str:
    """Returns a line of `jobs`: id, status, local time of the submit, model and start of the prompt."""
    created = datetime.fromisoformat(job.created_at).astimezone().isoformat(" ", "seconds")
    prompt = " ".join(job.prompt.split())
    if len(prompt) > PROMPT_WIDTH:
        prompt = f"{prompt[: PROMPT_WIDTH - 1]}…"
    return f"{job.id}  {job.status:11}  {created}  {job.model}  {prompt}".rstrip()


def _print_text(client: Client, notices: Notices, job: Job) -> int:
    """Prints the first choice's text to the job's end."""
    started = threading.Event()
    threading.Thread(target=_report_position, args=(client, notices, job, started), daemon=True).start()
    try:
        for event in client.stream(job.id):
            started.set()
            if event["type"] == "token" and event["index"] == 0:
                print(event["text"], end="", flush=True)
            elif event["type"] == "done":
                job = Job(event["job"])  # Without its output, which has been printed.
    finally:
        started.set()
    print(flush=True)
    if job.status != "completed":
        say(f"{job.id} is {job.status}" + (f": {job.error}" if job.error else ""))
    return 0 if job.status == "completed" else 1


def _report_position(client: Client, notices: Notices, job: Job, started: threading.Event) -> None:
    """Prints the job's position in the queue whenever it changes, until the job starts."""
    told = ""
    while not started.wait(POSITION_POLL_SECONDS):
        try:
            with notices.expecting():
                job = client.get(job.id)
        except (ClientError, RuntimeError):
            return  # The stream reports the error; or the client is closed already.
        position = _position(job)
        if position not in ("", told) and not started.is_set():
            say(position)
            told = position


def _position(job: Job) -> str:
    if job.status != "queued":
        return ""
    eta = "" if job.eta_seconds is None else f", about {job.eta_seconds:.0f} s"
    return f"queued: {job.fields['reason'] or f'place {job.queue_position}'}{eta}"
