"""What came before a response: the input and the output of the response that it continues.

The messages are copied into the new job. So a worker needs nothing else, and the earlier response may be
deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import ConflictError, FieldError, InvalidRequestError, JobNotFoundError
from tasks.job import Job, Status
from tasks.store import Store
from web.json_body import MAX_BODY_BYTES
from web.openai.ids import RESPONSE, completion_id, job_id_of
from web.openai.responses.bodies import response
from web.openai.responses.input_items import call_message, joined, reasoning_message
from web.openai.responses.item_list import conversation_of, own_message_count
from web.openai.responses.items import OutputItemBody
from web.openai.responses.origin import Turn, origin_of, origin_of_response
from web.render import to_json

FIELD = "previous_response_id"

MAX_CONVERSATION_BYTES = MAX_BODY_BYTES
"""What a conversation may take as JSON. Each response of a chain keeps all of it in Redis, so this is as much
as a client may send in one request."""


class PreviousResponseNotFoundError(InvalidRequestError):
    """There is no such response of this owner that can be continued."""

    code = "previous_response_not_found"
    title = "No such previous response"


@dataclass(frozen=True, slots=True)
class Earlier:
    """The conversation before a response. turns: see `ResponseOrigin`."""

    messages: Sequence[dict[str, Any]] = ()
    turns: Sequence[Turn] = field(default_factory=tuple)


def earlier_conversation(store: Store, owner: str, response_id: str) -> Earlier:
    """Returns the conversation up to and with a response.

    Raises PreviousResponseNotFoundError, ConflictError while it has not ended, and InvalidRequestError if it
    ended without an answer.
    """
    job = _continued(store, owner, response_id)
    if not job.is_ended:
        raise ConflictError(f"{FIELD}: {response_id} is {job.status}; it can be continued once it has ended")
    if job.status is not Status.COMPLETED:
        message = f"{response_id} has no answer that could be continued: it is {job.status}"
        raise InvalidRequestError([FieldError(FIELD, message)])
    return conversation_with(job)


def conversation_with(job: Job) -> Earlier:
    """Returns the conversation up to and with a response that has completed."""
    answer = joined(map(_message, response(job)["output"]))
    turn: Turn = {
        "id": completion_id(RESPONSE, job.id),
        "messages": own_message_count(job),
        "outputs": len(answer),
    }
    return Earlier([*conversation_of(job), *answer], [*origin_of_response(job)["turns"], turn])


def check_length(messages: Sequence[dict[str, Any]]) -> None:
    """Raises InvalidRequestError if a conversation with earlier turns takes more than may be stored."""
    length = len(to_json(messages).encode())
    if length > MAX_CONVERSATION_BYTES:
        message = f"the conversation has {length} bytes as JSON; at most {MAX_CONVERSATION_BYTES} are taken"
        raise InvalidRequestError([FieldError(FIELD, message)])


def _message(item: OutputItemBody) -> dict[str, Any]:
    """Returns the message of a job that an item of an output becomes in the next response."""
    if item["type"] == "function_call":
        return call_message(item["call_id"], item["name"], item["arguments"])
    text = "".join(part["text"] for part in item["content"])
    return reasoning_message(text) if item["type"] == "reasoning" else {"role": "assistant", "content": text}


def _continued(store: Store, owner: str, response_id: str) -> Job:
    job_id = job_id_of(RESPONSE, response_id)
    if job_id is not None:
        try:
            job = store.get(job_id, owner)
        except JobNotFoundError:
            job = None
        origin = None if job is None else origin_of(job)
        if job is not None and origin is not None and origin["store"]:
            return job
    raise PreviousResponseNotFoundError([FieldError(FIELD, f"there is no response {response_id}")])
