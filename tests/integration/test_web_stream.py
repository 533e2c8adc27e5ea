"""A job's events over real sockets: every event once and in order."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks.job import Status
from tests.integration.web_channels import no_channels, subscribers
from tests.integration.web_harness import Player, Server, submit
from tests.integration.web_sockets import (
    HANDSHAKE,
    Event,
    Socket,
    assert_gapless,
    read,
    read_all,
    read_to_close,
    same,
    slow_socket,
    sse,
    sse_events,
    texts,
    websocket,
)

pytest_plugins = ["tests.integration.web_fixtures"]


def test_a_websocket_sees_a_job_from_the_queue_to_its_end(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    job_id = submit(client)
    with websocket(server, job_id) as ws:
        eventually(lambda: subscribers(web_redis, job_id) == 1)
        run = player.start(job_id)
        assert read(ws) == {"seq": 1, "type": "status", "status": "in_progress", "attempt": 1}
        run.write(" upon")
        assert read(ws) == {"seq": 2, "type": "token", "index": 0, "text": " upon", "logprobs": None}
        run.complete(" a", " time")
        events, code = read_to_close(ws)
    assert texts(events) == " a time"
    assert events[-1]["type"] == "done"
    assert events[-1]["status"] == "completed"
    assert events[-1]["job"]["output"] == [{"index": 0, "text": " upon a time", "finish_reason": "stop"}]
    assert code == 1000
    eventually(lambda: no_channels(web_redis))


def test_server_sent_events_carry_the_same(client: httpx.Client, player: Player, web_redis: Redis) -> None:
    job_id = submit(client)
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(sse, client, job_id)
        eventually(lambda: subscribers(web_redis, job_id) == 1)
        player.start(job_id).complete(" a", " b")
        events = reading.result(TIMEOUT_SECONDS)
    assert_gapless(events)
    assert [event["type"] for event in events] == ["status", "token", "token", "done"]
    assert events[-1]["job"] == client.get(f"/v1/jobs/{job_id}").json()


def test_a_short_done_lacks_the_request_and_the_output(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    """It is for readers with a limit for a line or a frame, whether they come before or after the end."""
    prompt = "x" * 100_000
    job_id = submit(client, prompt)
    run = player.start(job_id)
    with websocket(server, job_id, "?done=short") as short, websocket(server, job_id, "?done=full") as full:
        eventually(lambda: subscribers(web_redis, job_id) == 1)
        run.complete("y" * 100_000)
        live, whole = read_to_close(short)[0], read_to_close(full)[0]
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert {**whole[-1]["job"], "urls": None} == {**job, "urls": None}
    bare = {name: value for name, value in job.items() if name not in ("request", "output")}
    for events in (live, sse(client, job_id, "?done=short")):
        assert events[:-1] == [event for event in whole if event["type"] != "done"]
        assert same(events)[-1] == same([{**whole[-1], "job": bare}])[0]
        assert len(json.dumps(events[-1])) < 2000


def test_a_stream_has_the_headers_that_keep_it_flowing(client: httpx.Client, player: Player) -> None:
    job_id = submit(client)
    player.start(job_id).complete("x")
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert answer.headers["Cache-Control"] == "no-cache"
    assert client.head(f"/v1/jobs/{job_id}/events").status_code == 200


def test_a_reader_resumes_after_any_event(server: Server, client: httpx.Client, player: Player) -> None:
    job_id = submit(client)
    player.start(job_id).complete(*"abcde")
    whole = sse(client, job_id)
    assert len(whole) == 7
    for after in range(len(whole)):
        assert sse(client, job_id, f"?after={after}") == whole[after:]
        assert sse(client, job_id, "?after=0", **{"Last-Event-ID": str(after)}) == whole[after:]
        with websocket(server, job_id, f"?after={after}") as ws:
            events, code = read_to_close(ws)
        assert (same(events), code) == (same(whole[after:]), 1000)
    for after in (7, 8, 2**63 - 1):
        assert client.get(f"/v1/jobs/{job_id}/events?after={after}").status_code == 204
        with websocket(server, job_id, f"?after={after}") as ws:
            assert read_to_close(ws) == ([], 1000)


def test_a_reader_ahead_of_the_log_still_sees_the_end(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    with websocket(server, job_id, "?after=100") as ws:
        eventually(lambda: subscribers(web_redis, job_id) == 1)
        run.complete("x")
        assert read_to_close(ws) == ([], 1000)


def test_any_text_arrives_as_it_is(server: Server, client: httpx.Client, player: Player) -> None:
    pieces = [
        "é",
        "\U0001f469\u200d\U0001f467",
        "\u2028\u2029",
        "\r\n\n",
        '"\\',
        "\x00\x7f\ufeff",
        "नमस्ते",
        "data: x\n\n",
    ]
    job_id = submit(client, prompt="".join(pieces))
    player.start(job_id).complete(*pieces)
    assert texts(sse(client, job_id)) == "".join(pieces)
    with websocket(server, job_id) as ws:
        assert texts(read_to_close(ws)[0]) == "".join(pieces)
    assert client.get(f"/v1/jobs/{job_id}").json()["request"]["prompt"] == "".join(pieces)


def test_a_long_log_is_replayed_whole(server: Server, client: httpx.Client, player: Player) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    for part in range(13):
        run.write(*(f" {part}.{i}" for i in range(100)))
    run.complete()
    events = sse(client, job_id)
    assert_gapless(events)
    assert len(events) == 1302
    with websocket(server, job_id) as ws:
        assert same(read_to_close(ws)[0]) == same(events)


def test_entries_written_while_readers_come_reach_each_of_them_once(
    server: Server, client: httpx.Client, player: Player
) -> None:
    """Each reader joins at another moment of a running job, between subscribing and reading the log."""
    job_id = submit(client)
    run = player.start(job_id)

    def join(_: int) -> tuple[list[Event], int]:
        with websocket(server, job_id) as ws:
            return read_to_close(ws)

    with ThreadPoolExecutor(24) as pool:
        joining = [pool.submit(join, i) for i in range(24)]
        written = [f" {i}" for i in range(400)]
        for text in written:
            run.write(text)
        run.complete()
        for reader in joining:
            events, code = reader.result(TIMEOUT_SECONDS)
            assert code == 1000
            assert_gapless(events)
            assert texts(events) == "".join(written)


def test_a_second_attempt_continues_the_numbers(server: Server, client: httpx.Client, player: Player) -> None:
    job_id = submit(client)
    with websocket(server, job_id) as ws:
        first = player.start(job_id)
        first.write("a")
        player.leases.release([(job_id, first.claim.lease_token)], "drain")
        player.start(job_id).complete("b")
        events, _ = read_to_close(ws)
    assert_gapless(events)
    assert [event.get("attempt", event.get("text")) for event in events[:-1]] == [1, "a", 2, "b"]


def test_every_final_status_reaches_the_reader(server: Server, client: httpx.Client, player: Player) -> None:
    waiting = submit(client, expires_in=60)
    for status in (Status.CANCELLED, Status.FAILED):
        job_id = submit(client)
        player.start(job_id).end(status)
        with websocket(server, job_id) as ws:
            events, code = read_to_close(ws)
        assert (events[-1]["status"], events[-1]["job"]["status"], code) == (status, status, 1000)
    client.post(f"/v1/jobs/{waiting}/cancel")
    assert [event["status"] for event in sse(client, waiting)] == ["cancelled"]


def test_two_hundred_readers_of_one_job_share_one_connection(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    readers = [Socket.connect(f"{server.ws_url}/v1/jobs/{job_id}/stream") for _ in range(200)]
    for reader in readers:
        assert read(reader)["type"] == "status"
    assert subscribers(web_redis, job_id) == 1
    for i in range(30):
        run.write(f" {i}")
    run.complete()
    first = read_to_close(readers[0])
    assert texts(first[0]) == "".join(f" {i}" for i in range(30))
    for reader in readers[1:]:
        assert read_to_close(reader) == first
    eventually(lambda: no_channels(web_redis))


def test_keep_alives_come_while_nothing_happens(short_interval_server: Server, client: httpx.Client) -> None:
    job_id = submit(client)
    with httpx.stream("GET", f"{short_interval_server.url}/v1/jobs/{job_id}/events") as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(6)] == [": keep-alive", ""] * 3
    with slow_socket(short_interval_server, f"/v1/jobs/{job_id}/stream", *HANDSHAKE) as opened:
        received = b""
        while b"\x89\x00" not in received:  # A ping without payload.
            received += opened.recv(4096)


def test_a_client_of_http_1_0_gets_the_stream_without_chunks(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    """While it waits, others get chunks that are written past gunicorn."""
    job_id = submit(client)
    run = player.start(job_id)
    with socket.create_connection(server.address, TIMEOUT_SECONDS) as old:
        old.sendall(f"GET /v1/jobs/{job_id}/events HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        eventually(lambda: subscribers(web_redis, job_id) == 1)
        with ThreadPoolExecutor() as pool:
            chunked = pool.submit(sse, client, job_id)
            for i in range(30):
                run.write(f" {i}")
            run.complete()
            events = chunked.result(TIMEOUT_SECONDS)
        head, body = read_all(old).decode().split("\r\n\r\n", 1)
    assert "chunked" not in head
    lines = (line for line in body.split("\n") if not line.startswith(":"))
    assert same(list(sse_events(lines))) == same(events)
    assert texts(events) == "".join(f" {i}" for i in range(30))
