"""A worker with a slow model: `celery -A tests.reliability.slow worker`.

SLOW=tokens: each token of a pass takes some time. SLOW=layers: each layer of a pass does, after the warm-up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from worker import bootstep
from worker.app import app
from worker.engine.forward import Answer, Chunk
from worker.engine.torch import slot_cache
from worker.engine.transformers.engine import TransformersEngine

__all__ = ["app"]

SECONDS_PER_TOKEN = 0.005
SECONDS_PER_LAYER = 1.0


class SlowEngine(TransformersEngine):
    def warm_up(self) -> None:
        if os.environ["SLOW"] == "tokens":
            self._slow_down_tokens()
        super().warm_up()
        if os.environ["SLOW"] == "layers":
            slow_down_layers()

    def _slow_down_tokens(self) -> None:
        run = self._forward.run

        def run_slowly(chunks: Sequence[Chunk]) -> Answer:
            time.sleep(SECONDS_PER_TOKEN * sum(len(chunk.token_ids) for chunk in chunks))
            return run(chunks)

        vars(self._forward)["run"] = run_slowly


def slow_down_layers() -> None:
    layer: Any = slot_cache._SlotLayer
    update = layer.update

    def update_slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(SECONDS_PER_LAYER)
        return update(*args, **kwargs)

    layer.update = update_slowly


vars(bootstep)["load_engine"] = SlowEngine
