"""The playground page in a real browser, against the whole product."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from client import Client
from harness.product import Web
from harness.proxy import Proxy
from harness.waiting import TIMEOUT_SECONDS
from tests.browser.conftest import record_texts
from web.errors import ForbiddenOriginError

pytest_plugins = ["tests.integration.product_fixtures"]

expect.set_options(timeout=TIMEOUT_SECONDS * 1000)


def generate(page: Page, prompt: str, max_tokens: int) -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Max tokens").fill(str(max_tokens))
    page.get_by_role("button", name="Generate").click()


def test_tokens_are_shown_as_they_come(page: Page, product: Web) -> None:
    page.goto(product.url)
    states = record_texts(page, "#status")
    generate(page, "tick tock", 400)
    expect(page.locator("#output")).to_contain_text("tick tock tick")
    expect(page.locator("#status")).to_contain_text("completed · 400 tokens")
    assert "in progress" in states()
    assert page.locator("#output").inner_text().split() == ["tick", "tock"] * 200


def test_the_options_reach_the_job(page: Page, product: Web) -> None:
    page.goto(product.url)
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Seed").fill("42")
    generate(page, "hello", 7)
    expect(page.locator("#status")).to_contain_text("completed · 7 tokens")
    with Client(product.url) as client:
        request = client.list(limit=1).jobs[0].fields["request"]
    assert (request["prompt"], request["temperature"], request["seed"]) == ("hello", 0.3, 42)


def test_cancel_keeps_the_text(page: Page, product: Web) -> None:
    page.goto(product.url)
    generate(page, "tick", 4000)
    expect(page.locator("#output")).to_contain_text("tick tick")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("#status")).to_contain_text("cancelled")
    expect(page.locator("#output")).to_contain_text("tick tick")
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_disabled()


def test_a_stream_continues_when_the_web_comes_back(page: Page, product: Web) -> None:
    page.goto(product.url)
    generate(page, "tick tock", 600)
    expect(page.locator("#output")).to_contain_text("tick tock tick")
    product.kill()
    expect(page.locator("#status")).to_contain_text("connection lost")
    starting = threading.Thread(target=product.start)
    starting.start()
    expect(page.locator("#status")).to_contain_text("completed · 600 tokens")
    starting.join()
    assert page.locator("#output").inner_text().split() == ["tick", "tock"] * 300


def test_a_reload_finds_the_job_again(page: Page, product: Web) -> None:
    page.goto(product.url)
    generate(page, "again and", 4)
    expect(page.locator("#status")).to_contain_text("completed")
    page.reload()
    expect(page.locator("#output")).to_have_text("again and again and")


def test_recent_jobs_can_be_opened_from_the_keyboard(page: Page, product: Web) -> None:
    with Client(product.url) as client:
        client.wait(client.submit("from elsewhere", max_tokens=2, n=2).id)
    page.goto(product.url)
    recent = page.get_by_role("button", name=re.compile("completed.*from elsewhere")).first
    recent.press("Enter")
    expect(page.locator("#output p")).to_have_text(["from elsewhere", "from elsewhere"])


def test_text_that_looks_like_html_is_shown_as_text(page: Page, product: Web) -> None:
    page.goto(product.url)
    prompt = "<img src=x onerror=alert(1)> <b>bold</b>"
    generate(page, prompt, 4)
    expect(page.locator("#status")).to_contain_text("completed")
    expect(page.locator("#output")).to_have_text(prompt)
    expect(page.locator("#asked")).to_have_text(prompt)
    expect(page.locator("#recent img, #output img, #output b")).to_have_count(0)


def test_a_refusal_is_shown(page: Page, product: Web) -> None:
    page.goto(product.url)
    # The browser's own check of the field would refuse it.
    page.locator("#job-form").evaluate("form => { form.noValidate = true }")
    generate(page, "hello", 0)
    expect(page.get_by_role("alert")).to_contain_text("max_tokens")


def test_the_health_line_shows_the_worker(page: Page, product: Web) -> None:
    page.goto(product.url)
    expect(page.locator("#health")).to_contain_text("echo · 1 worker")


def test_a_key_is_asked_for_and_used(page: Page, locked_product: Web) -> None:
    page.goto(locked_product.url)
    expect(page.get_by_role("alert")).to_contain_text("API key")
    page.get_by_label("API key").fill("sesame")
    page.get_by_role("button", name="Use").click()
    expect(page.locator("#health")).to_contain_text("echo · 1 worker")
    expect(page.get_by_label("API key")).to_be_hidden()
    generate(page, "let me in", 3)
    expect(page.locator("#output")).to_have_text("let me in")
    assert page.evaluate("localStorage.length") == 0


def job_count(web: Web) -> int:
    return int(sum(httpx.get(f"{web.url}/health").json()["jobs"].values()))


def test_a_double_click_makes_one_job(page: Page, product: Web) -> None:
    page.goto(product.url)
    before = job_count(product)
    page.get_by_label("Max tokens").fill("3")
    page.get_by_role("button", name="Generate").dblclick()
    expect(page.locator("#status")).to_contain_text("completed · 3 tokens")
    assert job_count(product) == before + 1
    page.get_by_label("Max tokens").fill("2")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#status")).to_contain_text("completed · 2 tokens")
    assert job_count(product) == before + 2


def test_a_submit_whose_answer_was_lost_makes_one_job(page: Page, product: Web) -> None:
    def lose_the_answer(route: Route) -> None:
        route.fetch()
        route.abort()

    page.goto(product.url)
    before = job_count(product)
    page.route("**/v1/jobs", lose_the_answer)
    generate(page, "once more", 2)
    expect(page.get_by_role("alert")).to_have_text("the server cannot be reached")
    page.unroute("**/v1/jobs")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#output")).to_have_text("once more")
    assert job_count(product) == before + 1


REFUSALS = [401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504]
NOT_TODAY = json.dumps({"detail": "not today"})
CALLS = {"submit": "**/v1/jobs", "cancel": "**/cancel", "open": "**/v1/jobs/job_*"}


@pytest.mark.parametrize("name", CALLS)
def test_every_refusal_of_a_call_is_shown(page: Page, product: Web, name: str) -> None:
    with Client(product.url) as client:
        job_id = client.submit("tick", max_tokens=4000).id
        for status in REFUSALS:
            for body, text in (
                (NOT_TODAY, "not today"),
                ("<html>", f"HTTP {status}"),
            ):
                page.goto("about:blank")
                page.route(CALLS[name], _refusing(status, body))
                page.goto(product.url if name == "submit" else f"{product.url}/#{job_id}")
                if name != "open":
                    page.locator({"submit": "#generate", "cancel": "#cancel"}[name]).click()
                expect(page.get_by_role("alert")).to_contain_text(text)
                expect(page.locator("#key-form")).to_be_visible(visible=status == 401)
                page.unroute_all()
        client.cancel(job_id)


def _refusing(status: int, body: str) -> Callable[[Route], None]:
    """Returns a route handler that gives this answer to every call except for the list of jobs."""

    def refuse(route: Route) -> None:
        if route.request.method == "GET" and route.request.url.partition("?")[0].endswith("/v1/jobs"):
            route.continue_()
        else:
            route.fulfill(status=status, body=body)

    return refuse


@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_of_the_numbers_is_shown_in_their_place(page: Page, product: Web, status: int) -> None:
    page.route("**/health", lambda route: route.fulfill(status=status, json={"detail": "not today"}))
    page.goto(product.url)
    expect(page.get_by_role("alert")).to_have_text("not today")
    if status != 401:
        expect(page.locator("#health")).to_contain_text("not today")
    page.unroute_all()
    expect(page.locator("#key-form")).to_be_visible(visible=status == 401)


class RenamingProxy(Proxy):
    """Sends another Host than its clients do, as many reverse proxies do by default."""

    def _passed_on(self, data: bytes) -> bytes:
        return data.replace(b"\r\nHost: 127.0.0.1:", b"\r\nHost: localhost:")


def test_a_stream_that_is_refused_says_what_the_server_says(page: Page, product: Web) -> None:
    with RenamingProxy(product.url) as proxy:
        page.goto(proxy.url)
        generate(page, "hello", 2)
        expect(page.get_by_role("alert")).to_have_text(ForbiddenOriginError().detail)
        expect(page.locator("#status")).not_to_contain_text("connection lost")
        page.goto("about:blank")


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/static/style.css"])
def test_the_page_needs_no_key_and_nothing_from_elsewhere(locked_product: Web, path: str) -> None:
    answer = httpx.get(locked_product.url + path)
    assert answer.status_code == 200
    assert not re.search(r"https?://(?!www\.w3\.org/)", answer.text)
