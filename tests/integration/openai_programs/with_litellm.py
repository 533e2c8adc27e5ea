"""A conversation, a stream and a call of a tool through LiteLLM. Prints what they gave as JSON.

Run it with the base URL, and with a prompt that an echo answers with a call.
"""

from __future__ import annotations

import json
import os
import sys

# It would fetch a list of prices from its makers.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm


def main() -> None:
    options = {"model": "openai/echo", "api_base": sys.argv[1], "api_key": "any", "max_tokens": 4}
    talk = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "bye"},
    ]
    answer = litellm.completion(messages=talk, **options)
    told = [{"role": "user", "content": "once upon a time there was"}]
    streamed = list(litellm.completion(messages=told, stream=True, **options))
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    asked = [{"role": "user", "content": sys.argv[2]}]
    called = litellm.completion(messages=asked, tools=[tool], **options).choices[0].message
    print(
        json.dumps(
            {
                "answer": answer.choices[0].message.content,
                "usage": answer.usage.completion_tokens,
                "reason": answer.choices[0].finish_reason,
                "stream": "".join(chunk.choices[0].delta.content or "" for chunk in streamed),
                "calls": [
                    [call.function.name, json.loads(call.function.arguments)] for call in called.tool_calls
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
