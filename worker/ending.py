"""Ending the worker's process at once, when something in it is in doubt."""

from __future__ import annotations

import logging
import os
import threading

LOG_SECONDS = 5.0
"""How long the last lines of the log may take: whoever should read them may have stopped doing so."""

logger = logging.getLogger(__name__)


def end_process(message: str, *args: object, exc_info: bool = False) -> None:
    """Logs why and ends the process with status 1. For any thread.

    Nothing is released: what is in memory is in doubt, what is in Redis is not. Leases run out, and other
    workers continue the jobs.
    """
    timer = threading.Timer(LOG_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
    try:
        logger.critical(message, *args, exc_info=exc_info)
        logging.shutdown()
    finally:
        os._exit(1)
