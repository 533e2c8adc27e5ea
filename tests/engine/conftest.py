"""What all engine tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

from worker.engine.native.decoder import is_decodable

collect_ignore = [] if find_spec("vllm") else ["test_vllm.py"]
"""vLLM has an environment of its own: `make test-vllm`."""

# Tiny models gain nothing from threads, and on a busy machine threads wait for each other.
torch.set_num_threads(1)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """A type that this machine decodes natively; in CI it has to, at least float32."""
    wanted: torch.dtype = request.param
    if not is_decodable(wanted):
        reason = f"no native decoder of {wanted} on this machine"
        if os.environ.get("CI") and wanted == torch.float32:
            pytest.fail(reason)
        pytest.skip(reason)
    return wanted


@pytest.fixture
def _restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
