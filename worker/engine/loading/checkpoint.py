"""Checks that a checkpoint has all of its model's tensors: transformers makes up missing ones at random."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tasks.errors import EngineError

SHOWN_NAMES = 3
"""How many tensors of a list a log line names."""

logger = logging.getLogger(__name__)


def check_tensors(model: Any, loading_info: dict[str, Any], model_id: str) -> None:
    """Logs tensors that the model does not use. Raises EngineError, which names those that are missing.

    loading_info: from `from_pretrained` with `output_loading_info`. Neither tied tensors nor tensors that the
        model's class declares optional count as missing.
    """
    missing, unexpected = loading_info["missing_keys"], loading_info["unexpected_keys"]
    for name, found, expected in sorted(loading_info["mismatched_keys"]):
        raise EngineError(
            f"MODEL_ID={model_id}: the checkpoint does not fit its configuration: "
            f"{name} has the shape {list(found)}, the model's is {list(expected)}"
        )
    if missing:
        others = f"; it has {len(unexpected)} others, such as {min(unexpected)}" if unexpected else ""
        raise EngineError(
            f"MODEL_ID={model_id}: the checkpoint lacks {len(missing)} of its "
            f"{len(model.state_dict())} tensors: {_listed(missing)}{others}"
        )
    if unexpected:
        logger.warning(
            "MODEL_ID=%s: %s does not use %d tensors of the checkpoint: %s",
            model_id,
            type(model).__name__,
            len(unexpected),
            _listed(unexpected),
        )


@contextmanager
def without_loading_report() -> Iterator[None]:
    """Suppresses transformers' table of missing and unexpected tensors, which `check_tensors` reports.

    The table is shown where a conversion of tensors failed, because nothing else says which one.
    """
    loader = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "LOAD REPORT" not in message or "CONVERSION" in message

    loader.addFilter(is_other)
    try:
        yield
    finally:
        loader.removeFilter(is_other)


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - SHOWN_NAMES
    return ", ".join(ordered[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
