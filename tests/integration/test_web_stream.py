"""The relay over real sockets: every event once and in order, whatever happens in between."""

from __future__ import annotations

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tasks.job import Status
from tests.integration.web_harness import (
    Player,
    RedisServer,
    Server,
    assert_problem,
    serving,
    submit,
)
from tests.integration.web_sockets import (
    HANDSHAKE,
    Event,
    Socket,
    assert_gapless,
    close_code,
    frames_of,
    read,
    read_all,
    read_to_close,
    same,
    slow_socket,
    sse,
    sse_rest,
    texts,
    websocket,
)

pytest_plugins = ["tests.integration.web_fixtures"]


def subscribers(redis: Redis, job_id: str) -> int:
    return int(redis.pubsub_numsub(keys.events(job_id))[0][1])


def no_channels(redis: Redis) -> bool:
    return redis.pubsub_channels() == []


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


def test_an_unknown_form_of_done_is_4400_or_422(server: Server, client: httpx.Client) -> None:
    job_id = submit(client)
    assert close_code(server, job_id, "?done=long") == 4400
    assert_problem(client.get(f"/v1/jobs/{job_id}/events?done=long"), 422, "done")


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


def kill_pubsub(redis: Redis) -> int:
    """Closes the hub's connections, and returns how many there were."""
    return int(redis.client_kill_filter(_type="pubsub"))


def test_nothing_is_lost_when_the_pubsub_connection_dies(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    with websocket(server, job_id) as ws, ThreadPoolExecutor() as pool:
        also = pool.submit(sse, client, job_id)
        eventually(lambda: subscribers(web_redis, job_id) == 1)
        for i in range(60):
            if i % 20 == 10:
                eventually(lambda: kill_pubsub(web_redis) == 1)
            run.write(f" {i}")
        run.complete()
        events, code = read_to_close(ws)
        assert code == 1000
        assert_gapless(events)
        assert texts(events) == "".join(f" {i}" for i in range(60))
        assert same(also.result(TIMEOUT_SECONDS)) == same(events)
    eventually(lambda: no_channels(web_redis))


def test_entries_whose_publish_was_lost_are_read_from_the_log(
    short_interval_server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    """The reader finds entries without a message at the next keep-alive, or with the next message."""
    job_id = submit(client)
    run = player.start(job_id)
    with websocket(short_interval_server, job_id) as ws:
        assert read(ws)["seq"] == 1
        web_redis.rpush(keys.log(job_id), '["t",0,[1],"quiet",null,null]')
        assert read(ws)["text"] == "quiet"
        run._length += 1
        web_redis.rpush(keys.log(job_id), '["t",0,[1],"quiet too",null,null]')
        run._length += 1
        run.write("loud")
        assert [read(ws)["text"], read(ws)["text"]] == ["quiet too", "loud"]


def test_readers_outlive_redis(
    redis_of_web: RedisServer, client: httpx.Client, server: Server, player: Player
) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    # Both streams begin before Redis is killed, because a later request would be refused.
    with websocket(server, job_id) as ws, client.stream("GET", f"/v1/jobs/{job_id}/events") as also:
        assert also.status_code == 200
        run.write("before")
        assert read(ws)["type"] == "status"
        assert read(ws)["text"] == "before"
        redis_of_web.kill()
        assert client.post("/v1/jobs", json={"prompt": "x"}).status_code == 503
        redis_of_web.start()
        run.write("after")
        assert read(ws)["text"] == "after"
        run.complete()
        assert read_to_close(ws)[1] == 1000
        assert texts(sse_rest(also)) == "beforeafter"


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


def test_a_reader_that_leaves_is_forgotten_at_once(
    server: Server, client: httpx.Client, web_redis: Redis
) -> None:
    """The job writes nothing, so no write can fail."""
    job_id = submit(client)
    closed = Socket.connect(f"{server.ws_url}/v1/jobs/{job_id}/stream")
    eventually(lambda: subscribers(web_redis, job_id) == 1)
    closed.close()
    eventually(lambda: no_channels(web_redis))
    with websocket(server, job_id) as dropped:
        eventually(lambda: subscribers(web_redis, job_id) == 1)
        dropped.sock.shutdown(socket.SHUT_RDWR)
        eventually(lambda: no_channels(web_redis))
    with client.stream("GET", f"/v1/jobs/{job_id}/events"):
        eventually(lambda: subscribers(web_redis, job_id) == 1)
    eventually(lambda: no_channels(web_redis))


def test_a_reader_that_stops_reading_gets_whole_frames_and_1008(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    with (
        websocket(server, job_id) as other,
        slow_socket(server, f"/v1/jobs/{job_id}/stream", *HANDSHAKE) as slow,
    ):
        eventually(lambda: subscribers(web_redis, job_id) == 1)
        text = "x" * 2000
        for _ in range(40):
            run.write(*[text] * 10)
        run.complete()
        events, code = read_to_close(other)
        assert (len(texts(events)), code) == (400 * 2000, 1000)
        eventually(lambda: no_channels(web_redis))  # The server has closed the slow stream.
        frames = frames_of(read_all(slow))
    assert frames[-1][0] == 8
    assert int.from_bytes(frames[-1][1][:2], "big") == 1008
    seen = [json.loads(payload) for opcode, payload in frames if opcode == 1]
    assert_gapless(seen)
    assert 0 < len(seen) < len(events)
    last = seen[-1]["seq"]
    with websocket(server, job_id, f"?after={last}") as again:
        assert read_to_close(again) == (events[last:], 1000)


def test_a_slow_reader_gets_everything(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    """It never stops for long. Its queue in the hub overflows, and it continues from the log."""
    job_id = submit(client)
    run = player.start(job_id)
    with slow_socket(server, f"/v1/jobs/{job_id}/stream", *HANDSHAKE) as slow:
        eventually(lambda: subscribers(web_redis, job_id) == 1)
        for _ in range(300):
            run.write("x" * 2000)
        run.complete()
        frames = frames_of(read_all(slow))
    events = [json.loads(payload) for opcode, payload in frames if opcode == 1]
    assert_gapless(events)
    assert len(texts(events)) == 600_000
    assert events[-1]["type"] == "done"
    assert int.from_bytes(frames[-1][1][:2], "big") == 1000


def test_a_server_sent_reader_that_stops_reading_is_dropped(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    with slow_socket(server, f"/v1/jobs/{job_id}/events"):
        eventually(lambda: subscribers(web_redis, job_id) == 1)
        for _ in range(1000):
            run.write(*["x" * 2000] * 5)
        eventually(lambda: no_channels(web_redis))
        run.complete()


def test_keep_alives_come_while_nothing_happens(short_interval_server: Server, client: httpx.Client) -> None:
    job_id = submit(client)
    with httpx.stream("GET", f"{short_interval_server.url}/v1/jobs/{job_id}/events") as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(6)] == [": keep-alive", ""] * 3
    with slow_socket(short_interval_server, f"/v1/jobs/{job_id}/stream", *HANDSHAKE) as opened:
        received = b""
        while b"\x89\x00" not in received:  # A ping without payload.
            received += opened.recv(4096)


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "", "%2B1", "%D9%A3", "1e3", "9223372036854775808"])
def test_a_bad_after_is_4400_or_422(server: Server, client: httpx.Client, after: str) -> None:
    job_id = submit(client)
    assert close_code(server, job_id, f"?after={after}") == 4400
    answer = client.get(f"/v1/jobs/{job_id}/events?after={after}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "after"


def test_an_unknown_job_is_4404_or_404(server: Server, client: httpx.Client) -> None:
    assert close_code(server, "job_nope") == 4404
    assert client.get("/v1/jobs/job_nope/events").status_code == 404


def test_a_plain_request_for_the_websocket_is_a_problem(client: httpx.Client) -> None:
    answer = client.get(f"/v1/jobs/{submit(client)}/stream")
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("missing", ["Sec-WebSocket-Version", "Sec-WebSocket-Key"])
def test_a_broken_handshake_is_400(server: Server, client: httpx.Client, missing: str) -> None:
    headers = [header for header in HANDSHAKE if not header.startswith(missing)]
    with slow_socket(server, f"/v1/jobs/{submit(client)}/stream", *headers, "Connection: close") as opened:
        received = opened.recv(65536)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in received


def test_the_server_agrees_on_no_compression(server: Server, client: httpx.Client) -> None:
    extension = "Sec-WebSocket-Extensions: permessage-deflate"
    path = f"/v1/jobs/{submit(client)}/stream"
    with slow_socket(server, path, *HANDSHAKE, extension) as opened:
        received = opened.recv(65536)
    assert received.startswith(b"HTTP/1.1 101 ")
    assert b"extensions" not in received.lower()


def test_a_page_from_elsewhere_may_not_read_along_without_keys(server: Server, client: httpx.Client) -> None:
    path = f"/v1/jobs/{submit(client)}/stream"
    refused = ["http://evil.example", "null", "http://[", "http://]", "http://localhost.evil.example"]
    for origin, status in [*((origin, 403) for origin in refused), ("http://localhost", 101)]:
        with slow_socket(server, path, *HANDSHAKE, f"Origin: {origin}") as opened:
            assert opened.recv(65536).startswith(b"HTTP/1.1 %d " % status), origin


def test_messages_of_clients_do_no_harm(
    server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    job_id = submit(client)
    run = player.start(job_id)
    with websocket(server, job_id) as talker:
        for _ in range(200):
            talker.send("hello")
            talker.send(b"\x00" * 100)
        run.write("x")
        assert [read(talker)["type"], read(talker)["type"]] == ["status", "token"]
        talker.send("x" * 5000)
        assert read_to_close(talker)[1] == 1009
        eventually(lambda: no_channels(web_redis))
    with slow_socket(server, f"/v1/jobs/{job_id}/stream", *HANDSHAKE) as garbage:
        garbage.recv(4096)
        garbage.sendall(b"\xff" * 100)
        read_all(garbage)


def test_a_deleted_job_ends_its_readers(
    short_interval_server: Server, client: httpx.Client, player: Player, web_redis: Redis
) -> None:
    """Such a reader waits for events after the last one."""
    job_id = submit(client)
    run = player.start(job_id)
    with websocket(short_interval_server, job_id, "?after=50") as ws:
        eventually(lambda: subscribers(web_redis, job_id) == 1)
        web_redis.delete(keys.job(job_id), keys.log(job_id))
        assert read_to_close(ws)[1] == 4404
    del run


def test_a_server_that_stops_closes_its_streams(
    redis_of_web: RedisServer, web_redis: Redis, player: Player, tmp_path: Path
) -> None:
    with (
        serving(redis_of_web.url, tmp_path) as server,
        httpx.Client(base_url=server.url, timeout=TIMEOUT_SECONDS) as client,
        ThreadPoolExecutor() as pool,
    ):
        watched, streamed, polled = [submit(client) for _ in range(3)]
        for job_id in (watched, streamed, polled):
            player.start(job_id)
        sockets = [Socket.connect(f"{server.ws_url}/v1/jobs/{watched}/stream") for _ in range(20)]
        for ws in sockets:
            assert read(ws)["seq"] == 1
        streaming = pool.submit(sse, client, streamed)
        polling = pool.submit(client.get, f"/v1/jobs/{polled}?wait=60")
        eventually(lambda: len(web_redis.pubsub_channels()) == 3)
        server.process.send_signal(signal.SIGTERM)
        for ws in sockets:
            assert read_to_close(ws) == ([], 1001)
        assert [event["seq"] for event in streaming.result(TIMEOUT_SECONDS)] in ([], [1])
        assert polling.result(TIMEOUT_SECONDS).json()["status"] == "in_progress"
        assert server.process.wait(TIMEOUT_SECONDS) == 0


def test_ctrl_c_closes_streams_too(redis_of_web: RedisServer, player: Player, tmp_path: Path) -> None:
    with (
        serving(redis_of_web.url, tmp_path) as server,
        httpx.Client(base_url=server.url, timeout=TIMEOUT_SECONDS) as client,
    ):
        job_id = submit(client)
        player.start(job_id)
        with websocket(server, job_id) as ws:
            assert read(ws)["seq"] == 1
            server.process.send_signal(signal.SIGINT)
            assert read_to_close(ws) == ([], 1001)
        assert server.process.wait(TIMEOUT_SECONDS) == 0
