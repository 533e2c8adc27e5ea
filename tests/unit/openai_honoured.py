"""Bodies that use only the fields that OpenAI's routes honour, with values of the documented ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from tests.unit.openai_bodies import TEXTS

Strategies = Mapping[str, st.SearchStrategy[Any]]

MOST_TOKENS = 2**31 - 1
SHORT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-zA-Z0-9_.-]{1,64}", fullmatch=True)
COUNTS = st.integers(1, MOST_TOKENS)
METADATA = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=9), TEXTS, max_size=16)
SCHEMAS = st.sampled_from(
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}},
    ]
)
FUNCTIONS = st.fixed_dictionaries(
    {"name": NAMES}, optional={"description": TEXTS, "parameters": SCHEMAS, "strict": st.booleans()}
)
TOOLS = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTIONS}), max_size=3)
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "id": SHORT,
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": NAMES, "arguments": TEXTS}),
        }
    ),
    min_size=1,
    max_size=2,
)

SAMPLING: Strategies = {
    "model": SHORT,
    "temperature": st.floats(0, 2) | st.integers(0, 2),
    "top_p": st.floats(0, 1, exclude_min=True) | st.just(1),
    "seed": st.integers(0, 2**63 - 1),
    "stop": SHORT | st.lists(SHORT, max_size=4),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "top_k": st.integers(-1, MOST_TOKENS),
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(1e-6, 2),
    "ignore_eos": st.booleans(),
    "stream": st.booleans(),
    "user": st.text(st.characters(codec="utf-8"), max_size=30),
    "priority": st.sampled_from(["high", "normal", "low"]),
    "expires_in": st.floats(0.1, 31_536_000) | st.integers(1, 60),
    "timeout": st.floats(0.1, 31_536_000) | st.integers(1, 60),
    "structured_outputs": st.sampled_from([{"regex": "a+"}, {"choice": ["yes", "no"]}, {"json": "{}"}]),
}
STREAM_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "include_usage": st.booleans(),
        "include_ids": st.booleans(),
        "include_obfuscation": st.just(False),
    },
)

IDS = st.lists(st.integers(0, MOST_TOKENS), min_size=1, max_size=3)
COMPLETION: Strategies = {
    **SAMPLING,
    "prompt": SHORT | IDS | st.lists(SHORT, min_size=1, max_size=3) | st.lists(IDS, min_size=1, max_size=3),
    "max_tokens": COUNTS,
    "n": st.integers(1, 8),
    "logprobs": st.integers(0, 5),
    "stream_options": STREAM_OPTIONS,
    "metadata": METADATA,
}

TEXT_PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), min_size=1, max_size=2)
CHAT_TURNS = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user"]), "content": TEXTS | TEXT_PARTS}
    ),
    st.fixed_dictionaries(
        {
            "role": st.just("assistant"),
            "content": st.none() | TEXTS,
            "reasoning_content": st.none() | TEXTS,
            "refusal": st.none(),
            "tool_calls": CALLS,
        }
    ),
    st.fixed_dictionaries({"role": st.just("tool"), "content": TEXTS | TEXT_PARTS, "tool_call_id": SHORT}),
)
CHAT: Strategies = {
    **SAMPLING,
    "messages": st.lists(CHAT_TURNS, min_size=1, max_size=3),
    "max_tokens": COUNTS,
    "max_completion_tokens": COUNTS,
    "n": st.integers(1, 8),
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(0, 5),
    "stream_options": STREAM_OPTIONS,
    "metadata": METADATA,
    "tools": TOOLS,
    "tool_choice": st.sampled_from(["auto", "none", "required", "named"]),
    "parallel_tool_calls": st.booleans(),
    "include_reasoning": st.booleans(),
    "response_format": st.just({"type": "text"})
    | st.just({"type": "json_object"})
    | st.fixed_dictionaries(
        {
            "type": st.just("json_schema"),
            "json_schema": st.fixed_dictionaries(
                {"name": NAMES},
                optional={"schema": SCHEMAS, "strict": st.none() | st.booleans(), "description": TEXTS},
            ),
        }
    ),
}

INPUT_PARTS = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["input_text", "output_text"]), "text": TEXTS}),
    min_size=1,
    max_size=2,
)
INPUT_TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": TEXTS | INPUT_PARTS},
    optional={"type": st.just("message"), "status": st.just("completed"), "id": SHORT},
)
CALL_TURNS = st.tuples(SHORT, NAMES, TEXTS, TEXTS | INPUT_PARTS).map(
    lambda call: [
        {"type": "function_call", "call_id": call[0], "name": call[1], "arguments": call[2]},
        {"type": "function_call_output", "call_id": call[0], "output": call[3]},
    ]
)
REASONING_TURNS = TEXTS.map(
    lambda text: {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}
)
ITEMS = st.lists(
    (INPUT_TURNS | REASONING_TURNS).map(lambda turn: [turn]) | CALL_TURNS, min_size=1, max_size=3
).map(lambda turns: [item for turn in turns for item in turn])
LOGPROBS = ["message.output_text.logprobs"]
RESPONSE: Strategies = {
    **SAMPLING,
    "input": SHORT | ITEMS,
    "tools": st.lists(FUNCTIONS.map(lambda tool: {"type": "function", **tool}), max_size=3),
    "tool_choice": st.sampled_from(["auto", "none", "required", "named"]),
    "parallel_tool_calls": st.booleans(),
    "text": st.fixed_dictionaries(
        {},
        optional={
            "format": st.just({"type": "text"})
            | st.just({"type": "json_object"})
            | st.fixed_dictionaries(
                {"type": st.just("json_schema"), "name": NAMES, "schema": SCHEMAS},
                optional={"strict": st.booleans(), "description": TEXTS},
            )
        },
    ),
    "instructions": TEXTS,
    "background": st.booleans(),
    "store": st.booleans(),
    "max_output_tokens": COUNTS,
    "include": st.sampled_from([[], LOGPROBS]),
    "top_logprobs": st.integers(0, 5),
    "stream_options": st.sampled_from([{}, {"include_obfuscation": False}]),
    "metadata": METADATA,
}

BATCH: Strategies = {
    "input_file_id": SHORT,
    "endpoint": st.sampled_from(["/v1/completions", "/v1/chat/completions", "/v1/responses"]),
    "completion_window": st.integers(1, 168).map(lambda hours: f"{hours}h"),
    "metadata": METADATA,
    "output_expires_after": st.fixed_dictionaries(
        {"anchor": st.just("created_at"), "seconds": st.integers(3600, 2_592_000)}
    ),
}

REQUIRED = ("prompt", "messages", "input", "input_file_id", "endpoint", "completion_window")


@st.composite
def honoured(draw: st.DrawFn, fields: Strategies) -> dict[str, Any]:
    """A body with the required fields of a route and some of the others, which agree with each other."""
    optional = [name for name in fields if name not in REQUIRED]
    names = draw(st.lists(st.sampled_from(optional), max_size=6, unique=True))
    body = {name: draw(fields[name]) for name in fields if name in REQUIRED or name in names}
    _agree(body)
    return body


def _agree(body: dict[str, Any]) -> None:
    """Changes those fields that are only accepted with others."""
    if "stream_options" in body:
        body["stream"] = True
    if "top_logprobs" in body:
        body |= {"include": LOGPROBS} if "input" in body else {"logprobs": True}
    if body.get("background"):
        body.pop("store", None)
    if body.get("include"):
        body.pop("tools", None)
    _agree_on_output(body)


def _agree_on_output(body: dict[str, Any]) -> None:
    tools = body.get("tools") or []
    choice = body.get("tool_choice")
    if choice in ("required", "named"):
        named = tools and _choice_of(tools[0])
        body["tool_choice"] = "auto" if not tools else named if choice == "named" else choice
    # Only one of these may restrict the output.
    forms = ["response_format", "text", "structured_outputs"]
    if body.get("tool_choice") not in (None, "auto", "none"):
        restricting = forms
    else:
        restricting = forms[2:] if "response_format" in body or "text" in body else []
    for name in restricting:
        body.pop(name, None)


def _choice_of(tool: dict[str, Any]) -> dict[str, Any]:
    if "function" in tool:
        return {"type": "function", "function": {"name": tool["function"]["name"]}}
    return {"type": "function", "name": tool["name"]}
