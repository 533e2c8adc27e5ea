"""`python -m client "Once upon a time"`: the text, as it comes. Exit codes: 0 completed, 1 not, 2 usage."""

from __future__ import annotations

import argparse
import io
import os
import sys
import threading
from collections.abc import Sequence

from client.api import DEFAULT_URL, Client
from client.errors import ClientError
from client.job import Job
from client.notices import Notices, say

LOOK_SECONDS = 1.0
"""How often a waiting job's place in the line is looked up."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # A terminal that is not UTF-8 lacks some characters.
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.prompt is None) == (options.watch is None):
        parser.error("give a PROMPT, or --watch ID")
    notices = Notices(options.url)
    try:
        with Client(options.url, options.api_key, on_trouble=notices.trouble) as client:
            return _run(client, notices, options)
    except ClientError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m client", description="Generate text and show it as it comes. Ctrl-C cancels the job."
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT")
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--temperature", type=float, help="0 to 2; 0 always takes the likeliest token")
    parser.add_argument("--seed", type=int, help="the same seed gives the same text")
    parser.add_argument("--model", help="one of several that the server offers")
    parser.add_argument("--detach", action="store_true", help="print the job's id and leave it running")
    parser.add_argument("--watch", metavar="ID", help="show an earlier job; Ctrl-C leaves it running")
    parser.add_argument(
        "--url", default=os.environ.get("TOKENRELAY_URL") or DEFAULT_URL, help="TOKENRELAY_URL"
    )
    parser.add_argument("--api-key", default=os.environ.get("TOKENRELAY_API_KEY"), help="TOKENRELAY_API_KEY")
    return parser


def _run(client: Client, notices: Notices, options: argparse.Namespace) -> int:
    if options.watch is not None:
        with notices.expecting():
            job = client.get(options.watch)
        return _watch(client, notices, job)
    fields = {name: getattr(options, name) for name in ("max_tokens", "temperature", "seed", "model")}
    with notices.expecting():
        job = client.submit(options.prompt, **{n: value for n, value in fields.items() if value is not None})
    if options.detach:
        print(job.id)
        return 0
    try:
        return _watch(client, notices, job)
    except KeyboardInterrupt:
        with notices.expecting():
            job = client.cancel(job.id)
        say(f"\n{job.id} is {job.status}")
        return 1
    except BrokenPipeError:
        # Whoever read the text has left. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        with notices.expecting():
            client.cancel(job.id)
        return 1


def _watch(client: Client, notices: Notices, job: Job) -> int:
    """Print the first choice's text to the end of the job."""
    started = threading.Event()
    threading.Thread(target=_report_place, args=(client, notices, job, started), daemon=True).start()
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
        say(f"{job.id} is {job.status}: {job.error or 'no error'}")
    return 0 if job.status == "completed" else 1


def _report_place(client: Client, notices: Notices, job: Job, started: threading.Event) -> None:
    """Until it starts, say where the job stands in the line, whenever that changes."""
    told = ""
    while not started.wait(LOOK_SECONDS):
        try:
            with notices.expecting():
                job = client.get(job.id)
        except (ClientError, RuntimeError):
            return  # The stream will tell; or the client is closed already.
        place = _place(job)
        if place not in ("", told) and not started.is_set():
            say(place)
            told = place


def _place(job: Job) -> str:
    if job.status != "queued":
        return ""
    eta = "" if job.eta_seconds is None else f", about {job.eta_seconds:.0f} s"
    return f"queued: {job.fields['reason'] or f'place {job.queue_position}'}{eta}"


if __name__ == "__main__":
    sys.exit(main())
