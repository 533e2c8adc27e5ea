"""The forms that OpenAI's clients ask an output to have, as `structured_outputs` of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, ValidationInfo, field_validator

from tasks.request import STRICT
from tasks.tools import Name, Tool
from tasks.validation import PARTS, STRING

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}

DEFINITIONS = "#/$defs/"


class JsonSchemaFormat(BaseModel):
    """A JSON schema with a name."""

    model_config = STRICT

    name: Name = Field(description="has no effect")
    description: str | None = Field(None, description="has no effect: say it in the messages")
    # The name `schema` belongs to pydantic's models.
    json_schema: dict[str, Any] = Field(
        default_factory=lambda: dict(ANY_OBJECT), alias="schema", description="what the output must match"
    )
    strict: bool | None = Field(None, description="has no effect: the output always matches the schema")


class ResponseFormat(BaseModel):
    """The form of the output."""

    model_config = STRICT

    type: Literal["text", "json_object", "json_schema"] = Field(
        description="`json_object`: any JSON object; `json_schema`: JSON that a schema accepts"
    )
    json_schema: JsonSchemaFormat | None = Field(
        None, validate_default=True, description="with the type `json_schema`"
    )

    @field_validator("json_schema")
    @classmethod
    def _belongs_to_its_type(
        cls, given: JsonSchemaFormat | None, info: ValidationInfo
    ) -> JsonSchemaFormat | None:
        if (given is not None) != (info.data.get("type") == "json_schema"):
            raise ValueError("is required with the type json_schema, and only accepted with it")
        return given

    @property
    def structure(self) -> dict[str, Any] | None:
        """The `structured_outputs` of a job; None for text."""
        if self.type == "text":
            return None
        return {"json": dict(ANY_OBJECT) if self.json_schema is None else self.json_schema.json_schema}


class NamedFunction(BaseModel):
    """A function that must be called."""

    model_config = STRICT

    name: Name = Field(description="one of `tools`")


class NamedTool(BaseModel):
    """A tool that must be called."""

    model_config = STRICT

    type: Literal["function"] = Field(description="always `function`")
    function: NamedFunction = Field(description="the function")


def _kind(choice: Any) -> str:
    return STRING if isinstance(choice, str) else PARTS


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag(STRING)] | Annotated[NamedTool, Tag(PARTS)],
    Discriminator(_kind),
]


def required_calls(tools: Sequence[Tool], *, is_parallel: bool) -> dict[str, Any]:
    """Returns `structured_outputs` of a job whose output is a list of calls of these tools, in JSON.

    is_parallel: whether the list may have several calls.
    """
    definitions: dict[str, Any] = {}
    calls = []
    for number, tool in enumerate(tools):
        schema, own = _hoisted(tool.function.parameters or ANY_OBJECT, f"tool{number}_")
        definitions |= own
        properties = {"name": {"const": tool.function.name}, "arguments": schema}
        calls.append(
            {
                "type": "object",
                "properties": properties,
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    several: dict[str, Any] = {} if is_parallel else {"maxItems": 1}
    schema = {"type": "array", "minItems": 1, **several, "items": {"anyOf": calls}}
    return {"json": {**schema, "$defs": definitions} if definitions else schema}


def _hoisted(schema: Mapping[str, Any], prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a schema without its definitions, and these under new names, since they belong to the root."""
    own = schema.get("$defs", {})
    if not isinstance(own, dict):  # Nothing can refer to it.
        own = {}
    inner = {name: part for name, part in schema.items() if name != "$defs"}
    moved = {prefix + name: _with_references(part, prefix) for name, part in own.items()}
    return _with_references(inner, prefix), moved


def _with_references(part: Any, prefix: str) -> Any:
    if isinstance(part, list):
        return [_with_references(one, prefix) for one in part]
    if not isinstance(part, dict):
        return part
    return {
        name: DEFINITIONS + prefix + value.removeprefix(DEFINITIONS)
        if name == "$ref" and isinstance(value, str) and value.startswith(DEFINITIONS)
        else _with_references(value, prefix)
        for name, value in part.items()
    }
