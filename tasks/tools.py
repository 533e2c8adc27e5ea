"""Tools that a model may call, and its calls of them, in the shape of OpenAI's chat completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tasks.structured_outputs import compact_json

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

NAME_PATTERN = r"^[a-zA-Z0-9_.-]{1,64}$"

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=NAME_PATTERN)]
CallId = Annotated[str, Field(min_length=1, max_length=128)]


def _storable(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a schema. Raises ValueError where it cannot become part of a job's record."""
    compact_json(schema)
    return schema


class FunctionTool(BaseModel):
    """A function that the model may call."""

    model_config = STRICT

    name: Name = Field(description="letters, digits, `_`, `-` and `.`", examples=["weather"])
    description: str | None = Field(None, description="what it does, for the model")
    parameters: Annotated[dict[str, Any], AfterValidator(_storable)] | None = Field(
        None, description="a JSON schema of its arguments, nested at most 100 levels deep"
    )
    strict: bool | None = Field(
        None, description="whether calls must match the schema; only honoured where a call is required"
    )


class Tool(BaseModel):
    """A tool. Only functions are supported."""

    model_config = STRICT

    type: Literal["function"] = Field(description="always `function`")
    function: FunctionTool = Field(description="the function")


class FunctionCall(BaseModel):
    """A call of a function."""

    model_config = STRICT

    name: Name = Field(description="the function")
    arguments: str = Field(description="its arguments, as JSON", examples=['{"city": "Oslo"}'])


class ToolCall(BaseModel):
    """A call that the model made in an earlier turn."""

    model_config = STRICT

    id: CallId = Field(description="names the call for the answer to it")
    type: Literal["function"] = Field("function", description="always `function`")
    function: FunctionCall = Field(description="what was called")
