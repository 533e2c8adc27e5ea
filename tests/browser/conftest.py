"""A headless Chromium, with a new profile for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from harness.waiting import TIMEOUT_SECONDS


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        reason = "no chromium on the PATH"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        # Without its sandbox, Chromium also runs as root, as in CI's containers. It only opens our own page.
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = playwright.chromium.launch(executable_path=path, headless=True, args=flags)
        yield opened
        opened.close()


RECORD = """(element) => {
    window.seen = [];
    new MutationObserver(() => window.seen.push(element.textContent))
        .observe(element, { childList: true, characterData: true, subtree: true });
}"""
"""Notes each text that an element has from now on."""


def record_texts(page: Page, selector: str) -> Callable[[], list[str]]:
    """Returns a function that returns all texts that the element had since, each time that it changed.

    A text that lasts only for moments may be gone before `expect` looks, if the machine is busy.
    """
    page.locator(selector).evaluate(RECORD)
    return lambda: list(page.evaluate("window.seen"))


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new page. The test fails if the page logs an error."""
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_SECONDS * 1000)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert errors == []
