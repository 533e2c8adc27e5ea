"""Completions and chat completions as clients read them, made from ended jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from tasks.answers import TokenLogprobs
from tasks.job import Choice, FinishReason, Job
from tasks.output_parts import Reasoning
from web.openai.divided_output import Added, DividedOutput
from web.openai.ids import CHAT, TEXT, completion_id
from web.openai.tool_output import ToolCallBody

REPLACEMENT = "\ufffd"
"""Stands for a part of a code point in a token's text, so the token's bytes are not known."""

Logprob = Annotated[float, Field(le=0)]
Byte = Annotated[int, Field(ge=0, le=255)]

Reason = Annotated[
    Literal["stop", "length"], Field(description="`stop`: the model or a stop string ended it")
]
ChatReason = Annotated[
    Literal["stop", "length", "tool_calls"],
    Field(description="`stop`: the model or a stop string ended it; `tool_calls`: it calls tools"),
]
Created = Annotated[int, Field(ge=0, description="Unix time at which the job was accepted, in seconds")]


class TokenUsageBody(TypedDict):
    """Tokens, of all choices together."""

    prompt_tokens: Annotated[int, Field(ge=0, description="of the prompt, or of all prompts")]
    completion_tokens: Annotated[int, Field(ge=0, description="generated tokens")]
    total_tokens: Annotated[int, Field(ge=0, description="the sum of both")]


class TextLogprobsBody(TypedDict):
    """Natural logarithms of probabilities, token by token."""

    tokens: Annotated[list[str], Field(description="the tokens' texts")]
    token_logprobs: Annotated[list[Logprob], Field(description="of each token")]
    top_logprobs: Annotated[
        list[dict[str, Logprob]], Field(description="of the likeliest tokens beside each")
    ]
    text_offset: Annotated[
        list[Annotated[int, Field(ge=0)]],
        Field(description="characters of the tokens' texts before each token, in its choice"),
    ]


class TextChoiceBody(TypedDict):
    """One of a completion's outputs."""

    index: Annotated[int, Field(ge=0, description="n choices for each prompt, in the prompts' order")]
    text: Annotated[str, Field(description="the continuation")]
    logprobs: Annotated[TextLogprobsBody | None, Field(description="null unless asked for")]
    finish_reason: Reason


class CompletionBody(TypedDict):
    """A completion."""

    id: Annotated[str, Field(description="that of its first job, with `cmpl-` for `job_`")]
    object: Annotated[Literal["text_completion"], Field(description="always `text_completion`")]
    created: Created
    model: Annotated[str, Field(description="the model that it ran on")]
    choices: Annotated[list[TextChoiceBody], Field(description="the outputs")]
    usage: Annotated[TokenUsageBody, Field(description="how many tokens it took")]
    job_ids: NotRequired[
        Annotated[
            list[str], Field(description="ids of the jobs; present only where X-Job-ID cannot name all")
        ]
    ]


class ChatTokenBody(TypedDict):
    """A likely token."""

    token: Annotated[str, Field(description="its text")]
    logprob: Annotated[float, Field(le=0, description="natural logarithm of its probability")]
    bytes: Annotated[
        list[Byte] | None, Field(description="its text in UTF-8; null for a part of a code point")
    ]


class ChatTokenLogprobsBody(ChatTokenBody):
    """A token of the output."""

    top_logprobs: Annotated[list[ChatTokenBody], Field(description="the likeliest tokens in its place")]


class ChatLogprobsBody(TypedDict):
    """Log probabilities of a choice."""

    content: Annotated[list[ChatTokenLogprobsBody], Field(description="one for each token")]
    refusal: Annotated[None, Field(description="always null")]


class AssistantMessageBody(TypedDict):
    """What the model answers."""

    role: Annotated[Literal["assistant"], Field(description="always `assistant`")]
    content: Annotated[
        str | None, Field(description="its text; null if there are only calls of tools, or only reasoning")
    ]
    refusal: Annotated[None, Field(description="always null")]
    reasoning_content: NotRequired[
        Annotated[str, Field(description="the reasoning before the text; absent if there is none")]
    ]
    tool_calls: NotRequired[
        Annotated[list[ToolCallBody], Field(description="what it calls; absent if it calls nothing")]
    ]


class ChatChoiceBody(TypedDict):
    """One of a chat completion's outputs."""

    index: Annotated[int, Field(ge=0, description="0 to n - 1")]
    message: Annotated[AssistantMessageBody, Field(description="the answer")]
    logprobs: Annotated[ChatLogprobsBody | None, Field(description="null unless asked for")]
    finish_reason: ChatReason


class ChatCompletionBody(TypedDict):
    """A chat completion."""

    id: Annotated[str, Field(description="that of its job, with `chatcmpl-` for `job_`")]
    object: Annotated[Literal["chat.completion"], Field(description="always `chat.completion`")]
    created: Created
    model: Annotated[str, Field(description="the model that it ran on")]
    choices: Annotated[list[ChatChoiceBody], Field(description="the outputs")]
    usage: Annotated[TokenUsageBody, Field(description="how many tokens it took")]
    metadata: Annotated[dict[str, str], Field(description="as given in the request, with `user`")]


class DeletedBody(TypedDict):
    """A chat completion that was deleted."""

    id: Annotated[str, Field(description="its id")]
    object: Annotated[
        Literal["chat.completion.deleted"], Field(description="always `chat.completion.deleted`")
    ]
    deleted: Annotated[Literal[True], Field(description="always true")]


def completion(jobs: Sequence[Job]) -> CompletionBody:
    """Returns the completion of completed jobs, one for each prompt."""
    return {
        "id": completion_id(TEXT, jobs[0].id),
        "object": "text_completion",
        "created": int(jobs[0].created_at),
        "model": jobs[0].model,
        "choices": [
            {
                "index": place * len(job.output) + choice.index,
                "text": choice.text,
                "logprobs": text_logprobs(choice.logprobs) if _wants_logprobs(job) else None,
                "finish_reason": finish_reason(choice),
            }
            for place, job in enumerate(jobs)
            for choice in job.output
        ],
        "usage": usage(jobs),
    }


def chat_completion(job: Job) -> ChatCompletionBody:
    """Returns the chat completion of a completed job."""
    return {
        "id": completion_id(CHAT, job.id),
        "object": "chat.completion",
        "created": int(job.created_at),
        "model": job.model,
        "choices": [_chat_choice(job, choice) for choice in job.output],
        "usage": usage([job]),
        "metadata": job.request["metadata"],
    }


def _chat_choice(job: Job, choice: Choice) -> ChatChoiceBody:
    output = DividedOutput.of(job, choice.index)
    parts = [choice.text] if output is None else [*output.push(Added.of_choice(choice)), *output.finish()]
    reasoning = "".join(part.text for part in parts if isinstance(part, Reasoning))
    calls = [part for part in parts if not isinstance(part, (Reasoning, str))]
    text = "".join(part for part in parts if isinstance(part, str))
    message: AssistantMessageBody = {
        "role": "assistant",
        "content": text if text or not (calls or reasoning) else None,
        "refusal": None,
    }
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    reason = finish_reason(choice)
    return {
        "index": choice.index,
        "message": message,
        "logprobs": chat_logprobs(_shown_logprobs(choice, output)) if _wants_logprobs(job) else None,
        "finish_reason": "tool_calls" if calls and reason == "stop" else reason,
    }


def _shown_logprobs(choice: Choice, output: DividedOutput | None) -> Sequence[TokenLogprobs]:
    if output is None:
        return choice.logprobs
    return [*output.shown_logprobs(Added.of_choice(choice)), *output.last_shown_logprobs()]


def usage(jobs: Sequence[Job]) -> TokenUsageBody:
    prompt = sum(job.prompt_tokens for job in jobs)
    generated = sum(job.completion_tokens for job in jobs)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def text_logprobs(tokens: Sequence[TokenLogprobs], offset: int = 0) -> TextLogprobsBody:
    """Returns log probabilities in the shape of completions. offset: of the first token."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [
            # The token that was drawn is there as well. If several ids have one text, the likeliest counts.
            {token["token"]: token["logprob"]}
            | {top["token"]: top["logprob"] for top in reversed(token["top_logprobs"])}
            for token in tokens
        ],
        "text_offset": offsets,
    }


def chat_logprobs(tokens: Sequence[TokenLogprobs]) -> ChatLogprobsBody:
    """Returns log probabilities in the shape of chat completions."""
    content: list[ChatTokenLogprobsBody] = [
        {
            **_chat_token(token["token"], token["logprob"]),
            "top_logprobs": [_chat_token(top["token"], top["logprob"]) for top in token["top_logprobs"]],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def finish_reason(choice: Choice) -> Literal["stop", "length"]:
    """Returns why a choice of a completed job ended."""
    return "stop" if choice.finish_reason is FinishReason.STOP else "length"


def _chat_token(text: str, logprob: float) -> ChatTokenBody:
    known = None if REPLACEMENT in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": known}


def _wants_logprobs(job: Job) -> bool:
    return job.request.get("logprobs") is not None
