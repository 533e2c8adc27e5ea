"""Checks the Host header: a guard against DNS rebinding, for servers without API keys.

A page of evil.example can make its own name point to 127.0.0.1. The browser then believes that this server is
the page's own origin and lets the page read and submit jobs, but it still sends `Host: evil.example`. Nobody
can make an IP address point elsewhere, so requests that are addressed to one are always served.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from flask import Flask, request

from tasks.errors import MalformedRequestError
from tasks.settings import Settings
from web.errors import ForbiddenHostError
from web.services import services

PROBES = frozenset({"health.live", "health.web", "health.ready"})
"""Load balancers may send any Host, and the answers of these routes hold no secrets."""


def register(app: Flask) -> None:
    app.before_request(_require_known_host)


def _require_known_host() -> None:
    """Raises MalformedRequestError and ForbiddenHostError."""
    if request.endpoint in PROBES:
        return
    name = _host_name()
    if not is_allowed(name, services().settings):
        raise ForbiddenHostError(
            f"this server does not go by the name {name}; it answers to localhost, to IP addresses and to "
            "the names in its setting ALLOWED_HOSTS"
        )


def _host_name() -> str:
    """Returns the host that the request is addressed to, without its port. Raises MalformedRequestError."""
    try:
        name = urlsplit(f"//{request.host}").hostname  # Werkzeug's host is empty where the header is no host.
    except ValueError:
        name = None
    if not name:
        raise MalformedRequestError("the Host header is not a host name or address")
    return name.rstrip(".")


def is_allowed(name: str, settings: Settings) -> bool:
    """Returns whether this host is served. With API keys every host is, unless ALLOWED_HOSTS names some."""
    if settings.api_keys and not settings.allowed_hosts:
        return True
    if _is_address(name) or name in ("localhost", settings.host.lower(), socket.gethostname().lower()):
        return True
    return any(_matches(name, allowed) for allowed in (*settings.allowed_hosts, "*.localhost"))


def _matches(name: str, allowed: str) -> bool:
    return name.endswith(allowed[1:]) if allowed.startswith("*") else name == allowed


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
