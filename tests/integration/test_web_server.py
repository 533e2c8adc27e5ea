"""The web server's process: how it starts, which settings it refuses, and the pages that it serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from redis import Redis

import web
from harness.waiting import TIMEOUT_SECONDS, eventually
from tasks.settings import Settings
from tests.integration.web_harness import REPOSITORY, Player, RedisServer, Server, assert_problem, serving
from web.routes import site

pytest_plugins = ["tests.integration.web_fixtures"]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PORT": "x"}, "PORT='x'"),
        ({"REDIS_URL": ""}, "REDIS_URL is not set"),
        ({"API_KEYS": "nonsense"}, "API_KEYS"),
        ({"HOST": "0.0.0.0"}, "only loopback"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_line(
    redis_of_web: RedisServer, variables: dict[str, str], message: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "web/gunicorn.conf.py", "web:create_app()"],
        cwd=REPOSITORY,
        env={**os.environ, "REDIS_URL": redis_of_web.url, **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert ended.returncode != 0
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_master_holds_no_connection(
    server: Server, client: httpx.Client, redis_of_web: RedisServer
) -> None:
    assert client.get("/health/web").status_code == 200
    master = psutil.Process(server.process.pid)
    [worker] = master.children()

    def redis_connections(process: psutil.Process) -> int:
        return sum(c.raddr != () and c.raddr.port == redis_of_web.port for c in process.net_connections())

    assert redis_connections(worker) > 0
    assert redis_connections(master) == 0


def test_a_dead_process_is_replaced(redis_of_web: RedisServer, tmp_path: Path) -> None:
    with serving(redis_of_web.url, tmp_path) as server:
        master = psutil.Process(server.process.pid)
        [worker] = master.children()
        worker.kill()
        eventually(lambda: [child.pid for child in master.children()] not in ([], [worker.pid]))
        eventually(server.is_up)


def test_every_web_process_reaps(server: Server, client: httpx.Client, web_redis: Redis) -> None:
    """So deadlines are kept without a worker, too."""
    assert server
    answer = client.post("/v1/jobs", json={"prompt": "x", "expires_in": 0.1})
    job = client.get(f"/v1/jobs/{answer.json()['id']}?wait=30").json()
    assert (job["status"], job["error"]["code"]) == ("expired", "expired")
    assert web_redis.ping()


def test_a_request_in_progress_is_served_while_the_server_stops(
    redis_of_web: RedisServer, web_redis: Redis, tmp_path: Path
) -> None:
    settings = Settings(redis_url=redis_of_web.url, model_id="m", max_num_seqs=4)
    with (
        serving(redis_of_web.url, tmp_path) as server,
        Player(web_redis, settings) as player,
        ThreadPoolExecutor() as pool,
    ):
        url = f"{server.url}/basic_generate"
        held = pool.submit(httpx.post, url, json={"prompt": "x"}, timeout=TIMEOUT_SECONDS)
        [channel] = eventually(web_redis.pubsub_channels)
        server.process.send_signal(signal.SIGTERM)
        player.start(str(channel).rpartition(":")[2]).complete("in time")
        assert held.result(TIMEOUT_SECONDS).json() == {"generated_text": "in time"}
        assert server.process.wait(TIMEOUT_SECONDS) == 0


def test_forwarded_headers_are_believed_from_named_proxies_only(
    redis_of_web: RedisServer, server: Server, client: httpx.Client, tmp_path: Path
) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
    job = client.post("/v1/jobs", json={"prompt": "x"}, headers=headers).json()
    assert job["urls"]["self"].startswith(server.url)
    variables = {"FORWARDED_ALLOW_IPS": "127.0.0.1", "ALLOWED_HOSTS": "api.example"}
    with serving(redis_of_web.url, tmp_path, **variables) as behind:
        headers["Host"] = "api.example"
        job = httpx.post(f"{behind.url}/v1/jobs", json={"prompt": "x"}, headers=headers).json()
    assert job["urls"]["self"].startswith("https://api.example/v1/jobs/")
    assert job["urls"]["stream"].startswith("wss://api.example/v1/jobs/")


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(site, "PAGES", tmp_path)
    for name in ("index.html", "style.css", "app.js"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("/", "index.html", "text/html"),
        ("/style.css", "style.css", "text/css"),
        ("/static/style.css", "style.css", "text/css"),
        ("/app.js", "app.js", "text/javascript"),
        ("/static/app.js", "app.js", "text/javascript"),
    ],
)
def test_the_page_is_served_with_the_right_types(
    pages: Path, redis_url: str, path: str, name: str, kind: str
) -> None:
    assert pages
    app = web.create_app(Settings(redis_url=redis_url))
    answer = app.test_client().get(path)
    assert (answer.status_code, answer.text, answer.mimetype) == (200, name, kind)
    if path == "/":
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    answer.close()


def test_no_file_outside_the_pages_is_served(client: httpx.Client) -> None:
    for path in (
        "/gunicorn.conf.py",
        "/static/../__init__.py",
        "/..%2f__init__.py",
        "/static/%2e%2e/errors.py",
    ):
        assert_problem(client.get(path), 404)
