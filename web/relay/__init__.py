"""The relay: it follows the logs of jobs and brings their events to this process' readers.

It knows neither routes nor requests: `tests/unit/test_imports.py` holds it to that.
"""
