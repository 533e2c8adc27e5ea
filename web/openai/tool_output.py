"""The output of a job with tools: text, and calls in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from tasks.job import Job
from tasks.output_parts import Call
from web.openai.tool_calls import ToolCallParser, call_id


class FunctionCallBody(TypedDict):
    """A call of a function."""

    name: Annotated[str, Field(description="the function")]
    arguments: Annotated[str, Field(description="its arguments, as JSON")]


class ToolCallBody(TypedDict):
    """A call of a tool."""

    id: Annotated[str, Field(description="names the call for the message with its result")]
    type: Annotated[Literal["function"], Field(description="always `function`")]
    function: Annotated[FunctionCallBody, Field(description="what to call")]


class ToolOutput:
    """The text and the calls of one choice, as they come."""

    def __init__(self, job_id: str, choice: int, tools: Collection[str], *, is_parallel: bool) -> None:
        """tools: their names. is_parallel: whether several calls are kept, or only the first one."""
        self._job_id, self._choice, self._is_parallel = job_id, choice, is_parallel
        self._parser = ToolCallParser(tools)
        self.count = 0
        """How many calls there have been."""

    @classmethod
    def of(cls, job: Job, choice: int) -> ToolOutput | None:
        """Returns one for a choice of a job; None if the job has no tools."""
        tools = job.request.get("tools")
        if tools is None:
            return None
        is_parallel = bool((job.origin or {}).get("parallel_tool_calls", True))
        names = {tool["function"]["name"] for tool in tools}
        return cls(job.id, choice, names, is_parallel=is_parallel)

    def push(self, text: str) -> list[str | ToolCallBody]:
        return self.bodies(self._parser.push(text))

    def finish(self) -> list[str | ToolCallBody]:
        return self.bodies(self._parser.finish())

    def bodies(self, parts: Iterable[str | Call]) -> list[str | ToolCallBody]:
        """Returns the next texts and calls in OpenAI's shape."""
        found: list[str | ToolCallBody] = []
        for part in parts:
            if isinstance(part, str):
                found.append(part)
            elif self._is_parallel or not self.count:
                found.append(self._body(part))
        return found

    def _body(self, call: Call) -> ToolCallBody:
        number, self.count = self.count, self.count + 1
        return {
            "id": call_id(self._job_id, self._choice, number),
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
