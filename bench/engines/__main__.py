"""An engine's own process: `bench.engines.process` starts it.

    python -m bench.engines convert ENGINE FOLDER TARGET
    python -m bench.engines serve ENGINE FOLDER PRECISION

`serve` reads JSON lines, [number of streams, temperature], and answers each with [tokens/s, tokens].
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from bench.engines import ENGINES
from bench.engines.base import NEW_TOKENS, prompts
from bench.engines.process import MARK


def serve(name: str, folder: Path, precision: str) -> None:
    generate = ENGINES[name].load(folder, precision)
    print(MARK, flush=True)
    for line in sys.stdin:
        streams, temperature = json.loads(line)
        batch = prompts(streams)
        began = time.perf_counter()
        tokens = generate(batch, temperature)
        seconds = time.perf_counter() - began
        counts = {len(one) for one in tokens}
        if len(tokens) != streams or counts != {NEW_TOKENS}:
            raise RuntimeError(f"{name} has returned {len(tokens)} sequences of {counts} tokens")
        print(MARK, json.dumps([streams * NEW_TOKENS / seconds, tokens]), flush=True)


def convert(name: str, folder: Path, target: Path) -> None:
    to_its_format = ENGINES[name].convert
    if to_its_format is None:
        raise ValueError(f"{name} reads transformers' format")
    to_its_format(folder, target)


if __name__ == "__main__":
    action, engine, model_folder, argument = sys.argv[1:]
    if action == "serve":
        serve(engine, Path(model_folder), argument)
    else:
        convert(engine, Path(model_folder), Path(argument))
