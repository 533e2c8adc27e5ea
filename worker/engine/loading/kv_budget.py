"""Computes how many tokens the memory for keys and values holds, and how many one sequence may have."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.errors import SettingsError
from tasks.settings import Settings

GIB = 2**30
MIN_MODEL_LEN = 16
"""A cache for fewer tokens must be a mistake."""

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KvBudget:
    """max_model_len: the most tokens of a sequence. tokens: the most of all sequences, no fewer than that."""

    max_model_len: int
    tokens: int


def kv_budget(
    settings: Settings, longest: int | None, bytes_per_token: int, device: torch.device
) -> KvBudget:
    """Returns what MAX_MODEL_LEN, the model and the memory for keys and values allow.

    longest: how many tokens a sequence may have for the model to be right; None where it names no number.
    Raises SettingsError where a setting cannot be met.
    """
    wanted = _wanted_length(settings, longest)
    held = int(settings.kv_cache_gib * GIB / bytes_per_token)
    described = f"one sequence of {wanted} tokens takes {_gib(wanted * bytes_per_token)}"
    if held < min(wanted, settings.max_model_len or MIN_MODEL_LEN):
        raise SettingsError(
            f"KV_CACHE_GIB={settings.kv_cache_gib:g}: {described}; raise it, or lower MAX_MODEL_LEN"
        )
    if held < wanted:
        logger.warning(
            "KV_CACHE_GIB=%g: %s, so that this worker takes %d tokens at most",
            settings.kv_cache_gib,
            described,
            held,
        )
    length = min(wanted, held)
    tokens = min(held, settings.max_num_seqs * length)
    available = available_bytes(device)
    if available is not None and tokens * bytes_per_token > available:
        raise SettingsError(
            f"KV_CACHE_GIB={settings.kv_cache_gib:g}: of these {_gib(tokens * bytes_per_token)} may be "
            f"needed, {device} has {_gib(available)} left; lower it"
        )
    logger.info("memory for keys and values: %d tokens, up to %d of them in one sequence", tokens, length)
    return KvBudget(length, tokens)


def _wanted_length(settings: Settings, longest: int | None) -> int:
    asked = settings.max_model_len
    length = longest if asked is None else asked
    if length is None:
        raise SettingsError(f"MAX_MODEL_LEN must be set: MODEL_ID={settings.model_id} names no length")
    if longest is not None and length > longest:
        raise SettingsError(f"MAX_MODEL_LEN={asked}: MODEL_ID={settings.model_id} accepts {longest} at most")
    return length


def _gib(count: int) -> str:
    return f"{count / GIB:.3g}"


def available_bytes(device: torch.device) -> int | None:
    """Returns how much memory the device has left; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    known = [bytes_left for bytes_left in (_available_to_machine(), _available_to_container()) if bytes_left]
    return min(known, default=None)


def _available_to_machine() -> int | None:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return None
    values = {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":", 1) for line in lines)}
    return values.get("MemAvailable")


def _available_to_container() -> int | None:
    """Returns what a limit (`docker run --memory`) leaves; None without one. Cached files count as free."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((CGROUP / "memory.current").read_text())
        cached = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return int(limit) - used + int(cached.get("inactive_file", 0))
