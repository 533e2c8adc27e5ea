"""Lists of jobs as JSON, sent in parts: a hundred jobs with long prompts are 100 MB and more."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from flask import Response
from redis.exceptions import RedisError

from tasks.connection import is_away
from web.render import to_json

logger = logging.getLogger(__name__)

Part = Sequence[Mapping[str, Any]]
"""Jobs as clients read them; each has an id."""


def list_response(parts: Iterable[Part], *, has_more: bool) -> Response:
    """Returns a response that reads a part when the one before it has been sent.

    Raises what reading the first two parts raises. If a later one cannot be read, the status has been sent
    already. Then the connection is closed, so that the client sees that the list is incomplete.
    """
    remaining = iter(parts)
    first, second = next(remaining, ()), next(remaining, None)
    if second is None:
        return Response("".join(_pieces([first], has_more)), mimetype="application/json")
    return Response(_pieces(chain([first, second], remaining), has_more), mimetype="application/json")


def _pieces(parts: Iterable[Part], has_more: bool) -> Iterator[str]:
    ids: list[str] = []
    start = '{"object":"list","data":['
    for part in _until_redis_is_away(parts):
        if part:
            yield start + ",".join(map(to_json, part))
            ids += [body["id"] for body in part]
            start = ","
    end = {"has_more": has_more, "first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
    yield ("" if ids else start) + "]," + to_json(end)[1:]


def _until_redis_is_away(parts: Iterable[Part]) -> Iterator[Part]:
    try:
        yield from parts
    except RedisError as error:
        if not is_away(error):
            raise
        logger.warning("a list is cut off, Redis cannot be reached any more: %s", error)
        # gunicorn closes the connection for this error, and logs no traceback.
        raise ConnectionResetError(errno.ECONNRESET, "the list is cut off") from error
