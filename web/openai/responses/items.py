"""Items that a model gives: reasoning, messages, and calls of functions, as clients read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from tasks.answers import TokenLogprobs
from web.openai.bodies import REPLACEMENT, Byte
from web.openai.ids import RESPONSE

ItemStatus = Literal["in_progress", "completed", "incomplete"]

MESSAGE, CALL, CALL_OUTPUT, REASONING = "msg_", "fc_", "fco_", "rs_"
"""How the ids of items begin. The id of their response follows."""


class OutputTopLogprobBody(TypedDict):
    """A likely token."""

    token: Annotated[str, Field(description="its text")]
    logprob: Annotated[float, Field(le=0, description="natural logarithm of its probability")]
    bytes: Annotated[
        list[Byte],
        Field(description="its text in UTF-8; empty for a part of a code point, whose bytes are unknown"),
    ]


class OutputLogprobBody(OutputTopLogprobBody):
    """A token of the output."""

    top_logprobs: Annotated[
        list[OutputTopLogprobBody], Field(description="the likeliest tokens in its place")
    ]


class OutputTextBody(TypedDict):
    """Text of an output message."""

    type: Annotated[Literal["output_text"], Field(description="always `output_text`")]
    text: Annotated[str, Field(description="the text so far")]
    annotations: Annotated[list[None], Field(description="always empty")]
    logprobs: Annotated[list[OutputLogprobBody], Field(description="of the tokens; empty unless asked for")]


class OutputMessageBody(TypedDict):
    """A message of the model."""

    id: Annotated[str, Field(description="its id: made of that of its response, with `msg_` for `resp_`")]
    type: Annotated[Literal["message"], Field(description="always `message`")]
    role: Annotated[Literal["assistant"], Field(description="always `assistant`")]
    status: Annotated[ItemStatus, Field(description="`incomplete`: it was cut off")]
    content: Annotated[list[OutputTextBody], Field(description="its texts; an output has one")]


class CallItemBody(TypedDict):
    """A call of a function by the model."""

    id: Annotated[str, Field(description="its id: made of that of its response, with `fc_` for `resp_`")]
    type: Annotated[Literal["function_call"], Field(description="always `function_call`")]
    call_id: Annotated[str, Field(description="names the call for the item with its output")]
    name: Annotated[str, Field(description="the function")]
    arguments: Annotated[str, Field(description="its arguments, as JSON")]
    status: Annotated[
        Literal["in_progress", "completed"],
        Field(description="`in_progress`: only in the event of its start"),
    ]


class ReasoningTextBody(TypedDict):
    """The text of reasoning."""

    type: Annotated[Literal["reasoning_text"], Field(description="always `reasoning_text`")]
    text: Annotated[str, Field(description="the text so far")]


class ReasoningItemBody(TypedDict):
    """The reasoning of the model before its answer."""

    id: Annotated[str, Field(description="its id: made of that of its response, with `rs_` for `resp_`")]
    type: Annotated[Literal["reasoning"], Field(description="always `reasoning`")]
    summary: Annotated[list[None], Field(description="always empty")]
    content: Annotated[list[ReasoningTextBody], Field(description="its text; an output has one")]
    status: Annotated[ItemStatus, Field(description="`incomplete`: it was cut off")]


OutputItemBody = ReasoningItemBody | OutputMessageBody | CallItemBody


def output_item_id(response_id: str, prefix: str, index: int) -> str:
    """Returns the id of an item of an output. index: its number, from 0 on."""
    return prefix + response_id.removeprefix(RESPONSE) + (f"-{index}" if index else "")


def input_item_id(response_id: str, prefix: str, index: int) -> str:
    """Returns the id of an item of the input that a response brought. index: its number, from 0 on."""
    return f"{prefix}{response_id.removeprefix(RESPONSE)}_{index}"


def output_message(
    item_id: str, texts: Sequence[str], status: ItemStatus, logprobs: Sequence[TokenLogprobs] = ()
) -> OutputMessageBody:
    """Returns a message of the model. logprobs: of its first text."""
    content = [output_text(text, () if place else logprobs) for place, text in enumerate(texts)]
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def output_text(text: str, logprobs: Sequence[TokenLogprobs] = ()) -> OutputTextBody:
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": [
            {
                **_token(token["token"], token["logprob"]),
                "top_logprobs": [_token(top["token"], top["logprob"]) for top in token["top_logprobs"]],
            }
            for token in logprobs
        ],
    }


def reasoning_item(item_id: str, texts: Sequence[str], status: ItemStatus) -> ReasoningItemBody:
    """Returns the reasoning of the model."""
    content = [reasoning_text(text) for text in texts]
    return {"id": item_id, "type": "reasoning", "summary": [], "content": content, "status": status}


def reasoning_text(text: str) -> ReasoningTextBody:
    return {"type": "reasoning_text", "text": text}


def call_item(item_id: str, call: Mapping[str, Any]) -> CallItemBody:
    """Returns a call of a function. call: in the shape of chat completions, and of a job's messages."""
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call["id"],
        "name": call["function"]["name"],
        "arguments": call["function"]["arguments"],
        "status": "completed",
    }


def _token(text: str, logprob: float) -> OutputTopLogprobBody:
    return {"token": text, "logprob": logprob, "bytes": [] if REPLACEMENT in text else list(text.encode())}
