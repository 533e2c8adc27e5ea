"""The running product, for tests of clients: `pytest_plugins = ["tests.integration.product_fixtures"]`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.product import Web, running


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with running(tmp_path_factory.mktemp("product")) as web:
        yield web


@pytest.fixture(scope="module")
def locked_product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The product with one API key, `sesame`."""
    with running(tmp_path_factory.mktemp("locked"), API_KEYS="ali:sesame") as web:
        yield web
