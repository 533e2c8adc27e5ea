"""The relay: it follows the logs of jobs and brings their events to this process' readers.

It knows neither routes nor requests, which `tests/unit/test_imports.py` checks.
"""
