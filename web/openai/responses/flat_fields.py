"""Tools and forms of the output as responses have them: flat, where chat completions nest an object.

They are turned into those of chat completions, so that all that follows is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from tasks.request import STRICT
from tasks.tools import FunctionTool, Tool
from web.openai.output_formats import JsonSchemaFormat, NamedFunction, ResponseFormat, ToolChoice
from web.openai.parameters import known_types, without_nulls


class FlatTool(FunctionTool):
    """A function that the model may call."""

    type: Literal["function"] = Field(description="always `function`")

    _nulls = model_validator(mode="before")(without_nulls)


class FlatToolChoice(NamedFunction):
    """A function that must be called."""

    type: Literal["function"] = Field(description="always `function`")


class PlainFormat(BaseModel):
    """Text, or any JSON object."""

    model_config = STRICT

    type: Literal["text", "json_object"] = Field(description="`json_object`: any JSON object")


class FlatJsonSchema(JsonSchemaFormat):
    """A JSON schema that the output matches."""

    type: Literal["json_schema"] = Field(description="always `json_schema`")

    _nulls = model_validator(mode="before")(without_nulls)


def _nested(flat: type[BaseModel], field: str) -> Callable[[Any], Any]:
    """Returns a function that validates a flat object, and moves all but its type into a field."""

    def nest(value: Any) -> dict[str, Any]:
        flat.model_validate(value)
        return {"type": value["type"], field: {name: value[name] for name in value if name != "type"}}

    return nest


_nested_choice = _nested(FlatToolChoice, "function")
_nested_schema = _nested(FlatJsonSchema, "json_schema")


def _choice(value: Any) -> Any:
    return value if isinstance(value, str) else _nested_choice(value)


def _format(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") == "json_schema":
        return _nested_schema(value)
    return PlainFormat.model_validate(value).model_dump()


ResponseTool = Annotated[
    Tool,
    BeforeValidator(_nested(FlatTool, "function"), json_schema_input_type=FlatTool),
    known_types("function"),
]
ResponseToolChoice = Annotated[
    ToolChoice,
    BeforeValidator(_choice, json_schema_input_type=Literal["auto", "none", "required"] | FlatToolChoice),
    known_types("function"),
]
TextFormat = Annotated[
    ResponseFormat,
    BeforeValidator(_format, json_schema_input_type=PlainFormat | FlatJsonSchema),
    known_types("text", "json_object", "json_schema"),
]
