"""The web container's command under Compose, where HOST is the address that the host publishes.

Without API_KEYS only loopback may be served. Inside the container the server has to bind 0.0.0.0, so this
module applies the rule to the published address, and lifts it for the server.
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
