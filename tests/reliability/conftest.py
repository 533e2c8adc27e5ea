"""The workers' fixtures of the integration tests, for this package too."""

from __future__ import annotations

from tests.integration.conftest import celery_app, echo_settings, start_echo_workers, store, submit

__all__ = ["celery_app", "echo_settings", "start_echo_workers", "store", "submit"]
