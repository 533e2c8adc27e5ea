"""Lists of jobs on a real gunicorn."""

from __future__ import annotations

import httpx
import pytest
from redis import Redis

from harness.waiting import eventually
from tasks import keys
from tests.integration.web_harness import Player, RedisServer, Server, assert_problem, submit
from tests.integration.web_sockets import read_all, slow_socket

pytest_plugins = ["tests.integration.web_fixtures"]


def test_a_list_is_paged_newest_first(client: httpx.Client, player: Player) -> None:
    ids = [submit(client, str(i)) for i in range(5)][::-1]
    player.start(ids[-1]).complete("x")
    whole = client.get("/v1/jobs").json()
    assert [job["id"] for job in whole["data"]] == ids
    assert (whole["object"], whole["has_more"], whole["first_id"], whole["last_id"]) == (
        "list",
        False,
        ids[0],
        ids[-1],
    )
    page = client.get("/v1/jobs?limit=2").json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == (ids[:2], True)
    rest = client.get(f"/v1/jobs?after={page['last_id']}").json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (ids[2:], False)
    done = client.get("/v1/jobs?status=completed").json()
    assert [job["id"] for job in done["data"]] == ids[-1:]
    none = client.get("/v1/jobs?status=failed").json()
    assert (none["data"], none["first_id"], none["last_id"]) == ([], None, None)


def test_a_summary_is_what_lists_show(client: httpx.Client, player: Player, web_redis: Redis) -> None:
    long = "\U0001f600" * 1000
    texts = [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]
    ids = [
        submit(client, "short"),
        submit(client, long),
        str(
            client.post("/v1/jobs", json={"messages": [{"role": "user", "content": texts}] * 2}).json()["id"]
        ),
    ]
    player.start(ids[0]).complete("a text")
    listing = client.get("/v1/jobs?fields=summary").json()
    whole = client.get("/v1/jobs?fields=all").json()
    names = ("id", "status", "model", "created_at", "queue_position")
    prompts = ["one two\none two", long[:200], "short"]
    expected = [
        {**{name: job[name] for name in names}, "prompt": prompt}
        for job, prompt in zip(whole["data"], prompts, strict=True)
    ]
    assert listing == {**whole, "data": expected}
    assert [job["queue_position"] for job in expected] == [0, 0, None]
    # A record of an earlier version, which did not store the start of its prompt.
    web_redis.hdel(keys.job(ids[1]), "prompt_start")
    assert client.get("/v1/jobs?fields=summary").json() == listing
    page = client.get("/v1/jobs?fields=summary&limit=1&status=queued").json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == (ids[2:], True)
    assert client.get("/v1/jobs?fields=summary&status=failed").json()["data"] == []


def test_a_list_of_long_jobs_is_whole(client: httpx.Client) -> None:
    """The server reads and sends it in parts."""
    ids = [submit(client, f"{i}" * 400_000) for i in range(8)][::-1]
    listing = client.get("/v1/jobs").json()
    assert [job["id"] for job in listing["data"]] == ids
    assert listing["data"] == [client.get(f"/v1/jobs/{job_id}").json() for job_id in ids]
    assert (listing["has_more"], listing["first_id"], listing["last_id"]) == (False, ids[0], ids[-1])


def test_a_list_is_cut_off_where_redis_goes_away_in_the_middle(
    redis_of_web: RedisServer, server: Server, client: httpx.Client
) -> None:
    """The status has been sent by then, but the list must not look complete."""
    for i in range(24):
        submit(client, f"{i}" * 500_000)
    with slow_socket(server, "/v1/jobs?limit=100") as reader:
        received = reader.recv(4096)
        assert received.startswith(b"HTTP/1.1 200 ")
        redis_of_web.kill()
        try:
            received += read_all(reader)
        finally:
            redis_of_web.start()
    assert b"has_more" not in received
    assert not received.endswith(b"0\r\n\r\n")
    eventually(lambda: client.get("/health/web").status_code == 200)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("fields=", "fields"),
        ("fields=id", "fields"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("status=done", "status"),
        ("after=job_nope", "after"),
        ("after=", "after"),
    ],
)
def test_a_bad_list_query_is_422(client: httpx.Client, query: str, field: str) -> None:
    assert_problem(client.get(f"/v1/jobs?{query}"), 422, field)
