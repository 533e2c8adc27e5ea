"""vLLM's own load generator runs against OpenAI's routes without an error."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from harness.product import Web
from harness.workers import ROOT

pytest_plugins = ["tests.integration.product_fixtures"]
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

PYTHON = ROOT / ".venv-vllm/bin/python"
# The command `vllm` itself looks for a package `vllm`, and its build for CPUs is named otherwise.
BENCH = (
    "import argparse\n"
    "from vllm.benchmarks.serve import add_cli_args, main\n"
    "parser = argparse.ArgumentParser()\n"
    "add_cli_args(parser)\n"
    "main(parser.parse_args())"
)
REQUESTS, TOKENS = 20, 16


@pytest.mark.parametrize(
    ("backend", "endpoint"), [("openai", "/v1/completions"), ("openai-chat", "/v1/chat/completions")]
)
def test_no_request_fails(product: Web, backend: str, endpoint: str, tmp_path: Path) -> None:
    options = {
        "--backend": backend,
        "--base-url": product.url,
        "--endpoint": endpoint,
        "--model": "echo",
        "--tokenizer": str(ROOT / "worker/models/bundled"),
        "--dataset-name": "random",
        "--random-input-len": "20",
        "--random-output-len": str(TOKENS),
        "--num-prompts": str(REQUESTS),
        "--request-rate": "20",
        "--extra-body": '{"stream_options": {"include_usage": true, "include_ids": false}}',
        "--result-dir": str(tmp_path),
        "--result-filename": "result.json",
    }
    words = [word for pair in options.items() for word in pair]
    done = subprocess.run(
        [PYTHON, "-c", BENCH, *words, "--save-result"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"]) == (REQUESTS, 0), done.stdout
    assert result["total_output_tokens"] == REQUESTS * TOKENS
