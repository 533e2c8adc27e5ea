"""Runs requests in a process that can allocate only MIB more MiB, and prints their results as JSON.

    python -m tests.engine.short_of_memory MODEL_FOLDER NATIVE_ISA MIB

Before the limit is set, each request runs alone, so that the process has memory for one at a time.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from tests.engine.tiny import Outputs, engine_request, generate, settings_for
from worker.engine.base import EngineRequest
from worker.engine.transformers.engine import TransformersEngine

MIB = 2**20


def requests() -> list[EngineRequest]:
    """Returns four requests. A token takes 64 KiB.

    The second and the third cannot grow together, and the fourth cannot even grow alone.
    """
    return [
        engine_request("short", (5, 6), max_tokens=30),
        engine_request("grows", tuple(range(10, 160)), max_tokens=250),
        engine_request("grows too", tuple(range(30, 180)), max_tokens=250, temperature=1.0),
        engine_request("too long", (7, 8) * 1500, max_tokens=3),
        engine_request("last", (8, 9), max_tokens=10),
    ]


def limit_memory(mib: int) -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    [used_kib] = [int(line.split()[1]) for line in lines if line.startswith("VmSize:")]
    limit = used_kib * 1024 + mib * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(folder: str, isa: str, mib: str) -> None:
    settings = settings_for(Path(folder), native_isa=isa, max_num_seqs=5, kv_cache_gib=2)
    engine = TransformersEngine(
        settings, lambda: 0.0
    )  # The clock stands still, so that chunks, and their memory, do not depend on the speed.
    alone = {one.request_id: generate(engine, one)[0] for one in requests() if one.request_id != "too long"}
    limit_memory(int(mib))
    for request in requests():
        engine.add_request(request)
    together = Outputs(engine).run()
    again = generate(engine, requests()[1])[0]
    report = {
        "alone": alone,
        "together": together.token_ids,
        "errors": together.errors,
        "again": again,
        "preemptions": engine._scheduler.preemptions,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
