"""A real server's answers match its document: every field is there, and no other."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from redis import Redis

from client import Client
from harness.product import Web
from harness.waiting import TIMEOUT_SECONDS
from tasks.job import FinishReason, JobError, Status
from tests.integration.openai_events import raw_events
from tests.integration.web_harness import Player, Server
from web.calls import MAX_IDS_IN_HEADER

pytest_plugins = ["tests.integration.web_fixtures", "tests.integration.product_fixtures"]


class Document:
    """A server's `/openapi.json`, which checks the server's answers."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._paths: dict[str, dict[str, Any]] = document["paths"]
        self._components = copy.deepcopy(document["components"])
        for schema in self._components["schemas"].values():
            if "properties" in schema:
                # Clients should ignore unknown fields, but every field must be documented.
                schema["additionalProperties"] = False
        self.seen: set[tuple[str, str, int]] = set()

    def judge(self, answer: httpx.Response) -> None:
        """Raises AssertionError if the answer is not as documented."""
        method, path = answer.request.method.lower(), self._template(answer.request.url.path)
        self.seen.add((method, path, answer.status_code))
        documented = self._documented(method, path, answer.status_code)
        for name in documented.get("headers", {}):
            assert name in answer.headers, f"{method} {path}: {answer.status_code} without {name}"
        content = documented.get("content")
        if content is None:
            assert answer.content == b""
            return
        kind = answer.headers["Content-Type"].partition(";")[0]
        schema = content[kind]["schema"]
        if kind == "text/event-stream":
            for data in re.findall("^data: (?!\\[DONE])(.*)$", answer.text, re.MULTILINE):
                self.check(json.loads(data), schema["contentSchema"])
        else:
            self.check(answer.json(), schema)

    def schema(self, method: str, path: str, status: int) -> dict[str, Any]:
        [content] = self._documented(method, path, status)["content"].values()
        found: dict[str, Any] = content["schema"]
        return found

    def check(self, body: Any, schema: dict[str, Any]) -> None:
        checker = Draft202012Validator(
            {**schema, "components": self._components}, format_checker=Draft202012Validator.FORMAT_CHECKER
        )
        assert [f"{error.json_path}: {error.message}" for error in checker.iter_errors(body)] == []

    def _documented(self, method: str, path: str, status: int) -> dict[str, Any]:
        responses = self._paths[path][method]["responses"]
        assert str(status) in responses, f"{method} {path}: {status}"
        found: dict[str, Any] = responses[str(status)]
        return found

    def _template(self, path: str) -> str:
        fixed = [known for known in self._paths if known == path]
        patterns = {known: re.sub(r"{\w+}", "[^/]+", known) for known in self._paths}
        return (fixed or [known for known, pattern in patterns.items() if re.fullmatch(pattern, path)])[0]


@contextmanager
def judging(url: str) -> Iterator[tuple[httpx.Client, Document]]:
    """Yields a client that checks every answer of a server against the server's document."""
    document = Document(httpx.get(f"{url}/openapi.json").json())

    def judge(answer: httpx.Response) -> None:
        answer.read()
        document.judge(answer)

    with httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS, event_hooks={"response": [judge]}) as client:
        yield client, document


def submitted(client: httpx.Client, **options: Any) -> str:
    return str(client.post("/v1/jobs", json={"prompt": "once", **options}).json()["id"])


FULL: dict[str, Any] = {
    "stop": "x",
    "n": 2,
    "logprobs": 1,
    "seed": 2**63 - 1,
    "top_p": 0.5,
    "min_p": 0.1,
    "engine": "echo",
    "priority": "low",
    "expires_in": 100,
    "timeout": 100.5,
    "metadata": {"k": "v"},
}


def test_jobs_in_every_state_are_as_documented(server: Server, player: Player) -> None:
    with judging(server.url) as (judged, document):
        waiting = submitted(judged, messages=[{"role": "user", "content": "hi"}], prompt=None)
        judged.post(f"/v1/jobs/{waiting}/cancel")
        done, failed = submitted(judged, **FULL), submitted(judged)
        judged.get(f"/v1/jobs/{done}")
        run = player.start(done)
        run.write(" upon", finish_reason=FinishReason.STOP)
        judged.get(f"/v1/jobs/{done}", params={"wait": 0.01})
        run.write(" a", choice=1, finish_reason=FinishReason.LENGTH)
        run.end(Status.COMPLETED)
        player.start(failed).end(Status.FAILED, JobError("engine_error", "it broke"))
        for job_id in (waiting, done, failed):
            judged.get(f"/v1/jobs/{job_id}")
            judged.get(f"/v1/jobs/{job_id}/events")
            judged.get(f"/v1/jobs/{job_id}/events", params={"done": "short"})
            judged.post(f"/v1/jobs/{job_id}/ticket")
        assert judged.get("/v1/jobs").json()["data"]
        assert judged.get("/v1/jobs", params={"fields": "summary"}).json()["data"]
        assert judged.get("/health").json()["workers"]
        again = judged.post(f"/v1/jobs/{failed}/retry", headers={"Prefer": "wait=0"}).json()["id"]
        judged.post(f"/v1/jobs/{again}/cancel")
        judged.delete(f"/v1/jobs/{again}")
    assert ("get", "/v1/jobs/{job_id}/events", 200) in document.seen
    assert ("delete", "/v1/jobs/{job_id}", 204) in document.seen


@pytest.mark.usefixtures("player")
def test_models_health_and_refusals_are_as_documented(server: Server) -> None:
    with judging(server.url) as (judged, document):
        assert judged.get("/v1/jobs").json()["data"] == []
        model = judged.get("/v1/models").json()["data"][0]["id"]
        for path in (
            f"/v1/models/{model}",
            "/v1/models/none",
            "/health/live",
            "/health/web",
            "/health/ready",
        ):
            judged.get(path)
        waiting = submitted(judged)
        judged.delete(f"/v1/jobs/{waiting}")
        judged.post(f"/v1/jobs/{waiting}/retry")
        judged.post("/v1/jobs", json={"prompt": "", "n": 9})
        judged.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"})
        judged.post("/v1/jobs", content=b"{}")
        judged.post("/v1/jobs", json={"prompt": "x" * 2**20})
        for path in ("/v1/jobs?limit=0", f"/v1/jobs/{waiting}?wait=x", f"/v1/jobs/{waiting}/events?after=x"):
            assert judged.get(path).status_code == HTTPStatus.UNPROCESSABLE_ENTITY
        for path in ("/v1/jobs/none", "/v1/jobs/none/events", f"/v1/jobs/{waiting}/stream"):
            judged.get(path)
        assert {status for *_, status in document.seen} >= {200, 202, 400, 404, 409, 413, 415, 422}


def test_the_demos_answers_are_as_documented(product: Web) -> None:
    with judging(product.url) as (client, document):
        assert client.post("/basic_generate", json={"prompt": "once"}).status_code == HTTPStatus.OK
        assert client.post("/generate", json={"prompts": ["a", "b"]}).status_code == HTTPStatus.OK
        many = ["a"] * (MAX_IDS_IN_HEADER + 1)
        assert len(client.post("/generate", json={"prompts": many}).json()["job_ids"]) == len(many)
        assert "[DONE]" in client.post("/generate_stream", json={"prompt": "once"}).text
        assert '"error"' in client.post("/generate_stream", json={"prompt": "once " * 5000}).text
        client.post("/basic_generate", json={"prompt": "once " * 5000})
        client.post("/generate", json={"prompts": []})
        client.post("/generate_vllm", json={"prompts": ["once"]})
    assert {status for *_, status in document.seen} == {200, 422, 503}


def test_openais_answers_are_as_documented(product: Web) -> None:
    with judging(product.url) as (client, document):
        hello = {"messages": [{"role": "user", "content": "hello you"}], "max_tokens": 3}
        for options in ({}, {"n": 2, "logprobs": True, "top_logprobs": 2, "user": "ada"}):
            made = client.post("/v1/chat/completions", json={**hello, **options}).json()
            assert client.get(f"/v1/chat/completions/{made['id']}").json() == made
            usage = {"stream": True, "stream_options": {"include_usage": True}}
            assert "[DONE]" in client.post("/v1/chat/completions", json={**hello, **options, **usage}).text
        assert client.delete(f"/v1/chat/completions/{made['id']}").json()["deleted"]
        for stream in (False, True):
            body = {"prompt": ["a", "b"], "logprobs": 1, "stream": stream}
            assert client.post("/v1/completions", json=body).status_code == HTTPStatus.OK
        single = client.post("/v1/completions", json={"prompt": [5, 6]}).json()
        assert client.get(f"/v1/completions/{single['id']}").json() == single
        client.get(f"/v1/completions/{single['id']}", params={"after": 10**6})
        client.get("/v1/completions/cmpl-none")
        client.post("/v1/completions", json={"prompt": "a", "model": "none"})
        for stream in (False, True):
            assert client.post("/v1/completions", json={"prompt": "once " * 5000, "stream": stream}).is_error
        client.post("/v1/completions", json={"prompt": []})
        client.post("/v1/completions", content=b"{")
    statuses = {status for _, path, status in document.seen if "completions" in path}
    assert statuses == {200, 204, 400, 404, 415}


def test_responses_are_as_documented(product: Web) -> None:
    with judging(product.url) as (client, document):
        hello = {"input": "hello you", "max_output_tokens": 3}
        logprobs = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "instructions": "Go."}
        for options in ({}, {"stream": True, "background": True}, {**logprobs, "stream": True}):
            assert client.post("/v1/responses", json={**hello, **options}).status_code == HTTPStatus.OK
        made = client.post("/v1/responses", json={**hello, **logprobs}).json()
        url = f"/v1/responses/{made['id']}"
        assert client.get(url).json() == made
        events = raw_events(client.get(url, params={"stream": "true"}).text)
        assert events[-1]["response"] == made
        client.get(url, params={"stream": "true", "starting_after": len(events)})
        further = client.post("/v1/responses", json={**hello, "previous_response_id": made["id"]}).json()
        assert len(client.get(f"/v1/responses/{further['id']}/input_items").json()["data"]) == 3
        waiting = client.post(
            "/v1/responses", json={**hello, "max_output_tokens": 500, "background": True}
        ).json()
        assert client.delete(f"/v1/responses/{waiting['id']}").status_code == HTTPStatus.CONFLICT
        assert client.post(f"/v1/responses/{waiting['id']}/cancel").json()["status"] == "cancelled"
        assert client.delete(url).json()["deleted"]
        client.get(url)
        client.get(f"{url}/input_items")
        client.post("/v1/responses", json={**hello, "previous_response_id": made["id"]})
        client.post("/v1/responses", json={"input": "once " * 5000})
        failed = client.post("/v1/responses", json={"input": "once " * 5000, "background": True}).json()
        events = raw_events(client.get(f"/v1/responses/{failed['id']}", params={"stream": "true"}).text)
        assert events[-1]["response"]["error"]["code"] == "invalid_prompt"
    assert {status for _, path, status in document.seen if "responses" in path} == {200, 204, 400, 404, 409}


def test_the_streams_frames_are_as_documented(product: Web) -> None:
    with judging(product.url) as (client, document), Client(product.url) as reader:
        job_id = client.post("/v1/jobs", json={"prompt": "once", "max_tokens": 2, "logprobs": 2}).json()["id"]
        frames = list(reader.stream(job_id))
    assert [frame["type"] for frame in frames][-1] == "done"
    for frame in frames:
        document.check(frame, document.schema("get", "/v1/jobs/{job_id}/stream", 101))


def test_a_missing_key_is_as_documented(locked_product: Web) -> None:
    with judging(locked_product.url) as (client, _):
        for path in ("/v1/jobs", "/v1/models", "/health", "/v1/jobs/job_x/events"):
            assert client.get(path).status_code == HTTPStatus.UNAUTHORIZED


def test_an_answer_that_is_not_documented_is_noticed(server: Server, web_redis: Redis) -> None:
    web_redis.ping()
    with judging(server.url) as (client, document):
        answer = client.get("/health")
    body = answer.json()
    for wrong in ({**body, "more": 1}, {"jobs": body["jobs"]}, {**body, "workers": [{"id": 1}]}):
        with pytest.raises(AssertionError):
            document.judge(httpx.Response(200, json=wrong, request=answer.request))
    with pytest.raises(AssertionError):
        document.judge(httpx.Response(418, json=body, request=answer.request))
