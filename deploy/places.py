"""The names of the product's packages: `tasks` in a checkout, `tokenrelay.tasks` where it is installed."""

from __future__ import annotations

from pathlib import Path

PREFIX = (__package__ or "").rpartition("deploy")[0]
"""The prefix of a package's name: empty, or `tokenrelay.`."""

IMPORT_ROOT = Path(__file__).parents[1 + PREFIX.count(".")]
"""The folder that has to be in `sys.path`: the checkout or site-packages."""

GUNICORN_CONFIG = Path(__file__).parent.parent / "web" / "gunicorn.conf.py"
WEB_APP = f"{PREFIX}web:create_app()"
WORKER_APP = f"{PREFIX}worker.app"
NATIVE_BUILD = f"{PREFIX}worker.engine.native.build"
