"""Tests of ENGINE=vllm alone: what it refuses, and how its processes end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.waiting import eventually
from tasks.errors import EngineError, SettingsError
from tasks.job import FinishReason
from tasks.settings import EngineKind
from tests.engine.tiny import engine_request, generate, load, save_model, settings_for
from worker.engine import load_engine
from worker.engine.base import Engine

ROOT = Path(__file__).parents[2]
LENGTH = 96
END_SECONDS = 5.0
"""How long a process may take to end."""

END = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    loaded = load(EngineKind.VLLM, folder, "llama")
    yield loaded
    loaded.shutdown()


def refuse(folder: Path, **settings: Any) -> str:
    """Returns the error that loading raises."""
    with pytest.raises((SettingsError, EngineError)) as caught:
        load_engine(settings_for(folder, engine=EngineKind.VLLM, **{"device": "auto", **settings}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_continued_sequence_draws_noise_of_its_own(engine: Engine) -> None:
    """With the noise of its first tokens it might repeat itself."""
    options: dict[str, Any] = {"temperature": 2.0, "max_tokens": 20, "seed": 3}
    [whole] = generate(engine, engine_request("whole", (9,), **options))
    continued = engine_request("rest", (9,), tuple(whole[:10]), **options)
    [rest] = generate(engine, continued)
    assert len(rest) == 10
    assert rest != whole[:10]
    assert generate(engine, continued) == [rest]


def drawn_seeds(engine: Engine, temperature: float) -> list[list[int]]:
    """Returns the tokens of two sequences with the same seed, which was drawn for them."""
    options: dict[str, Any] = {"temperature": temperature, "max_tokens": 20, "seed": 3, "is_seed_drawn": True}
    return [generate(engine, engine_request(name, (9,), **options))[0] for name in ("one", "two")]


def test_only_clients_seeds_are_passed_on(engine: Engine) -> None:
    """On a GPU, each sequence with a seed costs one more kernel in each step."""
    one, two = drawn_seeds(engine, temperature=2.0)
    assert one != two
    one, two = drawn_seeds(engine, temperature=0.0)
    assert one == two


def test_each_start_draws_other_noise(tmp_path: Path) -> None:
    """Otherwise a worker that continues a sequence would repeat the noise of its first tokens."""
    tokens = []
    for _ in range(2):
        engine = load(EngineKind.VLLM, tmp_path, "llama")
        tokens.append(drawn_seeds(engine, temperature=2.0))
        engine.shutdown()
    assert tokens[0] != tokens[1]


def test_the_chunks_of_a_prompt_draw_no_noise(tmp_path: Path) -> None:
    """Seeded tokens stay the same, whatever the number of chunks."""
    engine = load(EngineKind.VLLM, tmp_path, "llama")
    prompt = tuple(10 + i % 250 for i in range(80))
    requests = [
        engine_request(name, prompt, temperature=2.0, seed=3, max_tokens=8) for name in ("first", "last")
    ]
    first = generate(engine, requests[0])  # In short chunks, because the core has not measured its speed yet.
    for index in range(8):
        generate(engine, engine_request(str(index), (5, 6) * 40, max_tokens=1))
    assert generate(engine, requests[1]) == first
    engine.shutdown()


def test_a_step_that_brings_no_token_says_so(tmp_path: Path) -> None:
    """Most chunks of a long prompt bring none. A slow prefill must not be taken for a core that hangs."""
    engine = load(EngineKind.VLLM, tmp_path, "llama")
    engine.add_request(engine_request("long", (5, 6) * 45, max_tokens=1))
    steps = []
    while engine.has_unfinished_requests():
        steps.append(len(engine.step()))
    engine.shutdown()
    # The core has not measured its speed yet, so it begins with short chunks.
    assert len(steps) > 1
    assert steps == [*[0] * (len(steps) - 1), 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda"}, "DEVICE=cuda: the vLLM that is installed was built for cpu"),
        ({"device": "cuda:1"}, "DEVICE=cuda:1: with ENGINE=vllm, CUDA_VISIBLE_DEVICES chooses"),
        ({"engine_args": {"max_num_seqs": 4}}, "ENGINE_ARGS: max_num_seqs is set by MAX_NUM_SEQS"),
        ({"engine_args": {"max_seqs": 4}}, "ENGINE_ARGS: max_seqs is not accepted here by vLLM"),
        ({"engine_args": {"skip_tokenizer_init": False}}, "skip_tokenizer_init is not accepted here"),
        ({"engine_args": {"block_size": "x"}}, "vLLM cannot serve it: block_size: Input should be"),
        ({"max_model_len": LENGTH + 1}, "vLLM cannot serve it: .*max_model_len"),
        ({"model_id": "/nowhere"}, "MODEL_ID=/nowhere: there is no such folder"),
    ],
)
def test_wrong_settings_are_named(folder: Path, settings: dict[str, Any], message: str) -> None:
    save_model(folder, "llama")
    assert re.search(message, refuse(folder, **settings))


def test_a_model_that_its_core_cannot_run(tmp_path: Path) -> None:
    """Another process reads the weights, after all checks in this process have passed."""
    save_model(tmp_path, "llama")
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    message = refuse(tmp_path, kv_cache_gib=0.25, engine_args={"enforce_eager": True})
    assert "vLLM cannot serve it" in message


def test_a_core_that_dies_of_its_first_token(tmp_path: Path) -> None:
    """vLLM's CPU build loads a model with heads 8 wide, but has no attention kernel for it."""
    save_model(tmp_path, "llama")
    engine = load_engine(
        settings_for(
            tmp_path,
            engine=EngineKind.VLLM,
            device="auto",
            kv_cache_gib=0.25,
            engine_args={"enforce_eager": True},
        )
    )
    with pytest.raises(EngineError, match="the vLLM engine core died; its error is in"):
        engine.warm_up()
    engine.shutdown()


def test_a_cache_too_small_for_a_sequence(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    message = refuse(tmp_path, kv_cache_gib=1e-9, engine_args={"enforce_eager": True})
    assert "vLLM cannot serve it" in message


def processes_below(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    return found


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_a_dead_core_is_known_at_once(tmp_path: Path) -> None:
    before = processes_below(os.getpid())
    engine = load(EngineKind.VLLM, tmp_path, "llama")
    engine.check_health()
    engine.add_request(engine_request("one", (5,), max_tokens=90))
    engine.step()
    for process in processes_below(os.getpid()):
        if process not in before and "EngineCore" in " ".join(process.cmdline()):
            process.kill()

    def is_dead() -> bool:
        try:
            engine.check_health()
        except EngineError as error:
            return "the vLLM engine core died" in str(error)
        return False

    eventually(is_dead)
    with pytest.raises(EngineError, match="the vLLM engine core died"):
        engine.add_request(engine_request("two", (5,)))


def test_sequences_that_a_core_gives_up_did_not_fail(tmp_path: Path) -> None:
    """A core that is told to end aborts them. Another worker continues them after this one has ended."""
    before = processes_below(os.getpid())
    engine = load(EngineKind.VLLM, tmp_path, "llama")
    engine.add_request(engine_request("one", (5,), max_tokens=90))
    for process in processes_below(os.getpid()):
        if process not in before and "EngineCore" in " ".join(process.cmdline()):
            process.terminate()

    def step_to_the_end() -> None:
        while True:
            assert FinishReason.ERROR not in [output.finish_reason for output in engine.step()]
            engine.check_health()

    with pytest.raises(EngineError, match="the vLLM engine core died"):
        step_to_the_end()


def test_no_process_is_left(tmp_path: Path) -> None:
    before = processes_below(os.getpid())
    engine = load(EngineKind.VLLM, tmp_path, "llama")
    started = [process for process in processes_below(os.getpid()) if process not in before]
    generate(engine, engine_request("one", (5,)))
    engine.shutdown()
    eventually(lambda: are_gone(started))


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that loads an engine, prints a line, and waits."""
    program = (
        "if __name__ == '__main__':\n"
        "    import signal\n"
        "    from pathlib import Path\n"
        "    from tasks.settings import EngineKind\n"
        "    from tests.engine.tiny import load\n"
        f"    engine = load(EngineKind.VLLM, Path({str(tmp_path)!r}), 'llama')\n"
        "    print('loaded', flush=True)\n"
        "    signal.pause()\n"
    )
    script = tmp_path / "killed.py"
    script.write_text(program)
    command, environment = [sys.executable, str(script)], {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def has_just_started(name: str, pid: int) -> bool:
    """Returns whether a core, which `pid` starts, or a worker, which the core starts, has begun to run."""
    for process in processes_below(pid):
        with suppress(psutil.NoSuchProcess):  # It has ended meanwhile.
            if "spawn_main" in " ".join(process.cmdline()) and (process.ppid() == pid) == (name == "core"):
                return True
    return False


def test_its_processes_end_with_a_worker_that_is_killed(loading: subprocess.Popen[str]) -> None:
    """Otherwise they would hold the GPU's memory, which the next worker needs."""
    assert loading.stdout is not None
    while loading.stdout.readline().strip() != "loaded":
        assert loading.poll() is None
    below = processes_below(loading.pid)
    assert len(below) >= 2, "there must be a core and a worker"
    loading.kill()
    eventually(lambda: are_gone(below))


@pytest.mark.parametrize("name", ["core", "worker"])
def test_they_end_within_seconds_while_they_start(loading: subprocess.Popen[str], name: str) -> None:
    """Each of them imports for five seconds before it runs anything."""
    eventually(lambda: has_just_started(name, loading.pid))
    below = processes_below(loading.pid)
    loading.kill()
    eventually(lambda: are_gone(below), timeout=END_SECONDS)
