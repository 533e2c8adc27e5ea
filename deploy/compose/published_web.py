"""The web container's command under Compose, where HOST is the address that the host publishes.

Without API_KEYS only loopback may be served. Inside the container everything has to bind 0.0.0.0, so the rule
is applied to the published address here, and lifted for the process behind it.
"""

from __future__ import annotations

import os
import sys

from tasks.errors import SettingsError
from tasks.settings import get_settings

try:
    get_settings()
except SettingsError as error:
    sys.exit(f"web: {error}")

os.environ.update(HOST="0.0.0.0", ALLOW_ANONYMOUS="1")
os.execvp("gunicorn", ["gunicorn", "-c", "web/gunicorn.conf.py", "web:create_app()"])
