"""Ends the worker's process at once, when its state is in doubt."""

from __future__ import annotations

import logging
import os
import threading

LOG_SECONDS = 5.0
"""How long writing the last log lines may take: the process that reads them may have stopped."""

logger = logging.getLogger(__name__)


def end_process(message: str, *args: object, exc_info: bool = False) -> None:
    """Logs the reason and ends the process with status 1. For any thread.

    No job is given back, because the state in memory is in doubt. What is in Redis is right: other workers
    continue the jobs from there.
    """
    timer = threading.Timer(LOG_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
    try:
        logger.critical(message, *args, exc_info=exc_info)
        logging.shutdown()
    finally:
        os._exit(1)
