"""Streams when Redis fails, readers leave or are slow, and the server stops."""

from __future__ import annotations

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from redis import Redis

from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks import keys
from tests.integration.web_channels import no_channels, subscribers
from tests.integration.web_harness import Player, RedisServer, Server, serving, submit
from tests.integration.web_sockets import (
    HANDSHAKE,
    Socket,
    assert_gapless,
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
