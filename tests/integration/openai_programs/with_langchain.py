"""A conversation, a stream and a call of a tool through LangChain. Prints what they gave as JSON.

Run it with the base URL, and with a prompt that an echo answers with a call.
"""

from __future__ import annotations

import json
import sys

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI


def weather(city: str) -> str:
    """Returns the weather in a city."""
    return city


def main() -> None:
    model = ChatOpenAI(model="echo", base_url=sys.argv[1], api_key="any", max_tokens=4, max_retries=0)
    talk = [SystemMessage("be brief"), HumanMessage("hi"), AIMessage("hello"), HumanMessage("bye")]
    answer = model.invoke(talk)
    streamed = list(model.stream("once upon a time there was"))
    called = model.bind_tools([weather]).invoke(sys.argv[2])
    print(
        json.dumps(
            {
                "answer": answer.content,
                "usage": answer.usage_metadata and answer.usage_metadata["output_tokens"],
                "reason": answer.response_metadata["finish_reason"],
                "stream": "".join(str(chunk.content) for chunk in streamed),
                "calls": [[call["name"], call["args"]] for call in called.tool_calls],
            }
        )
    )


if __name__ == "__main__":
    main()
