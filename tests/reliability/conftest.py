"""Fixtures for workers, which are those of the integration tests."""

from __future__ import annotations

from tests.integration.conftest import celery_app, echo_settings, start_echo_workers, store, submit

__all__ = ["celery_app", "echo_settings", "start_echo_workers", "store", "submit"]
