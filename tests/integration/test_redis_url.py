"""REDIS_URL means the same to redis-py and to Celery, because the product uses both on one Redis."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import ConnectionError, RedisError

from harness.redis_server import start_redis
from tasks.app import JobApp, celery_queue
from tasks.connection import connect
from tasks.settings import Settings
from tests.integration.tls import Certificate, tls_in_front_of
from web.relay import job_log
from web.relay.hub import Hub

PASSWORD = "p@ss:w/o?r#d;%41 é"
QUOTED = "p%40ss%3Aw%2Fo%3Fr%23d%3B%2541%20%C3%A9"


def reach(redis_url: str) -> None:
    """Makes everything that uses Redis connect to it. Raises RedisError and OperationalError."""
    settings = Settings(redis_url=redis_url)
    for client in (connect(settings), job_log.connect(settings.required_redis_url)):
        with client:
            client.set("seen by redis-py", "yes")
    hub = Hub(settings.required_redis_url)
    hub._connection.connect()
    hub._connection.disconnect()
    with JobApp(settings) as app, app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)


def send_an_offer(redis_url: str) -> None:
    with JobApp(Settings(redis_url=redis_url)) as app:
        app.send_offers([("worker", "job_x")])


def has_been_reached(redis: Redis) -> bool:
    """Returns whether both libraries have reached Redis."""
    return bool(redis.exists("seen by redis-py") and redis.llen(celery_queue("worker").name))


@pytest.mark.parametrize(
    ("end", "database"), [("", 0), ("/", 0), ("/2", 2), ("?db=3", 3), ("/2?db=3", 3), ("/?db=4", 4)]
)
def test_the_number_of_the_database(redis_url: str, end: str, database: int) -> None:
    url = redis_url.removesuffix("/0")
    reach(url + end)
    send_an_offer(url + end)
    with Redis.from_url(f"{url}/{database}") as redis:
        assert has_been_reached(redis)


def test_a_password_of_odd_characters(tmp_path: Path) -> None:
    process, redis_url = start_redis(tmp_path)
    try:
        with Redis.from_url(redis_url) as redis:
            redis.config_set("requirepass", PASSWORD)
        url = redis_url.replace("//", f"//:{QUOTED}@")
        reach(url)
        send_an_offer(url)
        with Redis.from_url(redis_url, password=PASSWORD) as redis:
            assert has_been_reached(redis)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    return Certificate.made_in(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls_port(redis_url: str, certificate: Certificate) -> Iterator[int]:
    with tls_in_front_of(redis_url, certificate) as port:
        yield port


@pytest.mark.parametrize("options", ["?ssl_ca_certs={0}", "?ssl_cert_reqs=none", "?ssl_cert_reqs=CERT_NONE"])
def test_tls_as_the_options_say(tls_port: int, certificate: Certificate, redis: Redis, options: str) -> None:
    url = f"rediss://localhost:{tls_port}/0{options.format(certificate.certificate)}"
    reach(url)
    send_an_offer(url)
    assert has_been_reached(redis)


@pytest.mark.parametrize(
    ("host", "options"),
    [("localhost", ""), ("127.0.0.1", "?ssl_ca_certs={0}"), ("localhost", "?ssl_cert_reqs=required")],
)
def test_certificates_are_verified_by_both_libraries(
    tls_port: int, certificate: Certificate, host: str, options: str
) -> None:
    """Both refuse a certificate that is not trusted, and one for another name."""
    settings = Settings(redis_url=f"rediss://{host}:{tls_port}/0{options.format(certificate.certificate)}")
    with connect(settings) as client, pytest.raises(ConnectionError, match="certificate verify failed"):
        client.ping()
    with (
        JobApp(settings) as app,
        app.connection_for_write() as connection,
        pytest.raises((OperationalError, RedisError), match="certificate verify failed"),
    ):
        connection.connect()
