"""What all engine tests share."""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

from worker.engine.native.isa import supported
from worker.engine.native.library import NativeLibrary, native_library

collect_ignore = (
    []
    if find_spec("vllm")
    else [
        "test_vllm.py",
        "test_vllm_grammar.py",
        "test_vllm_server.py",
    ]
)
"""vLLM has an environment of its own: `make test-vllm`."""

# Threads do not speed up tiny models, and on a busy machine they wait for each other.
torch.set_num_threads(1)

ISAS = [isa.name for isa in supported()]
"""The instruction sets of this machine. All are tested, not only the one that a worker would choose."""


@pytest.fixture(params=ISAS)
def library(request: pytest.FixtureRequest) -> NativeLibrary:
    """The native code, for each of the machine's instruction sets."""
    found = native_library(request.param)
    assert found is not None, "make setup compiles it"
    return found


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """A type of the native decoder's weights."""
    wanted: torch.dtype = request.param
    return wanted


@pytest.fixture
def _restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def dice() -> random.Random:
    """A random generator with another seed in each run. A failure prints the seed."""
    seed = random.randrange(2**32)
    print("seed", seed)
    torch.manual_seed(seed)
    return random.Random(seed)
