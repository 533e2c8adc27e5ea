"""What all engine tests share."""

from __future__ import annotations

from importlib.util import find_spec

import torch

collect_ignore = [] if find_spec("vllm") else ["test_vllm.py"]
"""vLLM has an environment of its own: `make test-vllm`."""

# Tiny models gain nothing from threads, and on a busy machine threads wait for each other.
torch.set_num_threads(1)
