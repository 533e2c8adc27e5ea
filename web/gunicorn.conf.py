"""gunicorn's configuration. WEB_CONCURRENCY, GUNICORN_CMD_ARGS and FORWARDED_ALLOW_IPS are gunicorn's own."""

# ruff: noqa: E402, N999
from gevent import monkey

# Before our modules are imported: they would keep unpatched locks and sockets.
monkey.patch_all()

import logging
import os
import resource
import sys

from tasks.connection import connect
from tasks.durability import check_durability
from tasks.errors import SettingsError
from tasks.settings import get_settings
from web.serving.gunicorn_worker import Worker, start_background

logging.basicConfig(
    level=logging.INFO, format="[%(asctime)s] [%(process)d] [%(levelname)s] %(name)s: %(message)s"
)

try:
    _settings = get_settings()
    with connect(_settings) as _redis:
        check_durability(_redis)
except SettingsError as error:
    sys.exit(f"tokenrelay: {error}")

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"

worker_class = Worker
worker_connections = 10_000
"""The most streams and requests in a process at a time. Each is a greenlet and a file descriptor."""

graceful_timeout = 30
"""How many seconds requests in progress have after SIGTERM. Streams are closed at once (1001)."""

keepalive = 5
"""How many seconds an idle connection is kept. A shutdown may take this much longer."""

forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS", "")
"""X-Forwarded-Proto is believed only from the proxies that the operator names. A proxy must pass Host on."""

accesslog = None
control_socket_disable = True

# A common soft limit is 1024 descriptors, which would also limit the streams.
_, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_hard, _hard))
except ValueError:
    # macOS calls the hard limit infinite but accepts no more than its OPEN_MAX.
    resource.setrlimit(resource.RLIMIT_NOFILE, (10_240, _hard))


def post_worker_init(worker):  # type: ignore[no-untyped-def]
    """Runs in the worker process when the app is loaded."""
    start_background(worker)
