"""REDIS_URL, checked once, with the same meaning for redis-py and for Celery.

The two libraries read a URL differently. kombu takes each option after `?` as an argument of its own, fails
on options that it does not know, and verifies no certificate unless it is told to.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kombu.utils.url import as_url
from redis.connection import parse_url

TLS = "rediss"
SCHEMES = ("redis://", f"{TLS}://")

TLS_OPTIONS = (
    *("ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers"),
    "ssl_keyfile",
)
OPTIONS = ("db", *TLS_OPTIONS)
"""Time-outs and numbers of connections are not allowed, because Tokenrelay's guarantees depend on its own
values."""

VERIFY_MODES = ("none", "optional", "required")
CELERYS_VERIFY_MODE = re.compile("(?<=ssl_cert_reqs=)CERT_(NONE|OPTIONAL|REQUIRED)")
"""Celery's spelling of the verify modes, which redis-py does not know."""


def checked_url(url: str) -> str:
    """Returns the URL as redis-py reads it.

    Raises ValueError. Its text contains no part of the URL, because any part may belong to the password.
    """
    url = url.strip()
    if not url.startswith(SCHEMES):
        raise ValueError("accepts redis:// and rediss:// URLs")
    address, mark, query = url.partition("?")
    url = address + mark + CELERYS_VERIFY_MODE.sub(lambda mode: mode[1].lower(), query)
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018
    except ValueError:
        parts = None
    if parts is None or parts.fragment or "@" in parts.path + parts.query:
        raise ValueError("cannot be read; write @ : / ? # in a password as %40 %3A %2F %3F %23")
    if re.fullmatch("(/[0-9]*)?", parts.path) is None:
        raise ValueError("accepts only the number of a database after the port, as in /0")
    _check_options(parts.scheme, parse_qsl(parts.query, keep_blank_values=True))
    return url


def for_celery(url: str) -> tuple[str, dict[str, Any] | None]:
    """Returns a checked URL without its options, and Celery's `broker_use_ssl` (None without TLS)."""
    found: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    scheme = urlsplit(url).scheme
    host, port = found.get("host"), found.get("port")
    plain = as_url(scheme, host, port, found.get("username"), found.get("password"), str(found.get("db", 0)))
    if scheme != TLS:
        return plain, None
    given = {name: value for name, value in found.items() if name in TLS_OPTIONS}
    return plain, {"ssl_cert_reqs": "required", **given}


def _check_options(scheme: str, options: list[tuple[str, str]]) -> None:
    names = {name for name, _ in options}
    if not names <= set(OPTIONS):
        raise ValueError(f"accepts only these options after the ?: {', '.join(OPTIONS)}")
    if scheme != TLS and names & set(TLS_OPTIONS):
        raise ValueError("accepts options for TLS (ssl_...) only with rediss://")
    for name, value in options:
        if name == "db" and re.fullmatch("[0-9]+", value) is None:
            raise ValueError("accepts only the number of a database as db")
        if name == "ssl_cert_reqs" and value not in VERIFY_MODES:
            raise ValueError(f"accepts as ssl_cert_reqs only {', '.join(VERIFY_MODES)}")
        if not value:
            raise ValueError(f"has no value for {name}")
