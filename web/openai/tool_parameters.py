"""What chat completions and responses have in common: tools, and outputs in a form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from tasks.request import JobRequest
from tasks.tools import Tool
from web.openai.output_formats import NamedTool, ResponseFormat, ToolChoice, required_calls
from web.openai.parameters import Parameters, renamed_fields


class ToolParameters(Parameters, ABC):
    """Fields about tools, and the job that they lead to with the form of the output.

    schema_field: the path of the field with the form's JSON schema.
    """

    schema_field: ClassVar[str]

    tools: list[Tool] | None = Field(
        None, max_length=128, description="functions that the model may call, if its chat template shows them"
    )
    tool_choice: ToolChoice = Field(
        "auto",
        description="`none` does not show the tools to the model; with `required` or a tool, the output "
        "consists of calls that match the schemas",
    )
    parallel_tool_calls: bool = Field(True, description="false: all calls but the first one are dropped")

    @field_validator("tool_choice")
    @classmethod
    def _is_among_the_tools(cls, choice: Any, info: ValidationInfo) -> Any:
        names = [tool.function.name for tool in info.data.get("tools") or ()]
        if isinstance(choice, NamedTool) and choice.function.name not in names:
            raise ValueError(f"there is no tool '{choice.function.name}' in tools")
        if choice == "required" and not names:
            raise ValueError("needs tools")
        if _must_call(choice) and info.data.get("structured_outputs") is not None:
            raise ValueError("contradicts structured_outputs")
        return choice

    @property
    @abstractmethod
    def output_format(self) -> ResponseFormat | None:
        """The form that was asked for."""

    @property
    def shown_tools(self) -> list[Tool]:
        """Those that the model sees."""
        return [] if self.tool_choice == "none" else self.tools or []

    def conversation_request(self, messages: Sequence[dict[str, Any]], **changed: Any) -> JobRequest:
        """Returns the request of a job. Raises InvalidRequestError."""
        field, structure = self._structure()
        task = {"messages": messages, "tools": [tool.model_dump() for tool in self.shown_tools] or None}
        with renamed_fields({"structured_outputs.json": field}):
            return self.job_request(task, structured_outputs=structure, **changed)

    def _structure(self) -> tuple[str, Any]:
        """Returns the job's `structured_outputs`, and the field that it comes from."""
        if _must_call(self.tool_choice):
            named = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None
            tools = [tool for tool in self.shown_tools if named in (None, tool.function.name)]
            is_parallel = self.parallel_tool_calls and named is None
            return "tools", required_calls(tools, is_parallel=is_parallel)
        if self.output_format is not None and self.output_format.structure is not None:
            return self.schema_field, self.output_format.structure
        return "structured_outputs.json", self.structured_outputs


def check_format(given: ResponseFormat | None, fields: Mapping[str, Any]) -> None:
    """Raises ValueError if other fields ask for another form. fields: those that were validated before."""
    if given is None or given.structure is None:
        return
    if _must_call(fields.get("tool_choice")):
        raise ValueError("contradicts tool_choice")
    if fields.get("structured_outputs") is not None:
        raise ValueError("contradicts structured_outputs")


def _must_call(choice: Any) -> bool:
    return choice == "required" or isinstance(choice, NamedTool)
