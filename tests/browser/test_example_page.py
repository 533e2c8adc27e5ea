"""The example of a page that streams a job, in a real browser, against the whole product."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect

from harness.product import Web
from harness.redis_server import free_port
from harness.waiting import TIMEOUT_SECONDS, eventually
from harness.workers import ROOT
from tests.browser.conftest import record_texts

pytest_plugins = ["tests.integration.product_fixtures"]

expect.set_options(timeout=TIMEOUT_SECONDS * 1000)


@pytest.fixture
def example(product: Web) -> Iterator[str]:
    """Serves the example; yields the page's address."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "examples/browser_page/serve.py", str(port)],
        cwd=ROOT,
        env=os.environ | {"TOKENRELAY_URL": product.url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(answers)
        yield url
    finally:
        process.terminate()
        process.wait(TIMEOUT_SECONDS)


def test_the_text_streams_into_the_page(page: Page, example: str) -> None:
    page.goto(example)
    states = record_texts(page, "#status")
    page.get_by_label("Prompt").fill("tick tock")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("status")).to_have_text("completed")
    assert states() == ["submitting", "in_progress", "completed"]
    assert page.locator("#text").inner_text().split() == ["tick", "tock"] * 30
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()


def test_a_stream_continues_when_the_web_comes_back(page: Page, example: str, product: Web) -> None:
    page.goto(example)
    page.get_by_label("Prompt").fill("tick tock")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#text")).to_contain_text("tick tock tick")
    product.kill()
    product.start()
    expect(page.get_by_role("status")).to_have_text("completed")
    assert page.locator("#text").inner_text().split() == ["tick", "tock"] * 30


def test_a_refusal_is_shown(page: Page, example: str) -> None:
    page.goto(example)
    page.get_by_label("Prompt").fill("")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("status")).to_contain_text("prompt")
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
