"""gunicorn's configuration. WEB_CONCURRENCY, GUNICORN_CMD_ARGS and FORWARDED_ALLOW_IPS are gunicorn's own."""

# ruff: noqa: E402, N999
from gevent import monkey

# Before anything of ours is imported, or locks and sockets of the old kind stay in use.
monkey.patch_all()

import logging
import os
import resource
import sys

from tasks.connection import connect, refuse_eviction
from tasks.errors import SettingsError
from tasks.settings import get_settings
from web.serving.gunicorn_worker import Worker, start_reaper

try:
    _settings = get_settings()
    with connect(_settings) as _redis:
        refuse_eviction(_redis)
except SettingsError as error:
    sys.exit(f"tokenrelay: {error}")

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"

worker_class = Worker
worker_connections = 10_000
"""Streams and requests at once in a process; each is a greenlet and a file descriptor."""

graceful_timeout = 30
"""Seconds that requests in progress have after SIGTERM. Streams are closed at once (1001)."""

keepalive = 5
"""Seconds that an idle connection is kept: also what it may add to a shutdown."""

forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS", "")
"""Nobody's X-Forwarded-Proto is believed unless the operator names the proxy. A proxy has to pass Host on."""

accesslog = None
control_socket_disable = True

logging.basicConfig(
    level=logging.INFO, format="[%(asctime)s] [%(process)d] [%(levelname)s] %(name)s: %(message)s"
)

# A soft limit of 1024 descriptors is a common default, and would be the limit of streams.
_, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_hard, _hard))
except ValueError:
    # macOS calls the hard limit infinite but accepts no more than its OPEN_MAX.
    resource.setrlimit(resource.RLIMIT_NOFILE, (10_240, _hard))


def post_worker_init(worker):  # type: ignore[no-untyped-def]
    """In the worker process, with the app loaded."""
    start_reaper(worker)
