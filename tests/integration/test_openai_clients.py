"""Programs that speak OpenAI's API work unchanged, except for the base URL."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from harness.product import Web

pytest_plugins = ["tests.integration.product_fixtures"]

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients/bin/python"
PROGRAMS = Path(__file__).parent / "openai_programs"
CALL = '<tool_call>{"name":"weather", "arguments": {"city": "Oslo"}}</tool_call>'
"""Four words, which the programs' max_tokens allows."""


@pytest.fixture(autouse=True)
def installed() -> None:
    if not PYTHON.exists():
        reason = "make .venv-clients/.installed makes the environment of LangChain and LiteLLM"
        pytest.fail(reason) if "CI" in os.environ else pytest.skip(reason)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", ["with_langchain.py", "with_litellm.py"])
def test_a_conversation_a_stream_and_a_call_of_a_tool(product: Web, program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [PYTHON, PROGRAMS / program, f"{product.url}/v1", CALL],
        cwd=tmp_path,
        env=os.environ | {"NO_PROXY": "*", "LANGSMITH_TRACING": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "answer": "be brief hi hello",
        "usage": 4,
        "reason": "length",
        "stream": "once upon a time",
        "calls": [["weather", {"city": "Oslo"}]],
    }
