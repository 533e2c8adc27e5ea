"""Where an output ends before max_tokens, for every engine that runs a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tasks.errors import EngineError
from tasks.job import FinishReason
from tasks.leases import Claim
from tasks.log import Entry, StatusEntry, TokenEntry, choices, parse_entry
from tasks.request import JobRequest, parse_request
from tasks.settings import EngineKind
from tests.engine.tiny import (
    ENGINES,
    EOS_ID,
    TEXT,
    WIDE,
    Outputs,
    engine_request,
    generate,
    load_saved,
    save_model,
)
from worker.engine.base import Prompt
from worker.engine.text.eos import find_eos_ids
from worker.job_run import JobRun

MODEL_ENGINES = [engine for engine in ENGINES if engine is not EngineKind.ECHO]
FILES = ("config.json", "generation_config.json")
PLACES = ["config", "generation config", "list", "tokenizer", "all"]
OUTSIDE: list[int | list[int]] = [-1, 50256, [-1, 50256]]
HAS_VLLM = EngineKind.VLLM in ENGINES
"""All engines find the ends with the same code. With vLLM, whose every start takes half a minute, one of each
kind shows that it uses what was found."""

PROMPT = (10, 11, 12)
LENGTH = 30


@pytest.fixture(scope="module", params=MODEL_ENGINES)
def kind(request: pytest.FixtureRequest) -> EngineKind:
    return EngineKind(request.param)


@pytest.fixture(scope="module")
def free(kind: EngineKind, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """What the model generates if nothing ends it."""
    folder = save_model(tmp_path_factory.mktemp("free"), "llama", **WIDE["llama"])
    engine = load_saved(kind, folder)
    [token_ids] = generate(engine, engine_request("free", PROMPT, max_tokens=LENGTH))
    engine.shutdown()
    return token_ids


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model without an end of sequence in any of its files."""
    save_model(tmp_path, "llama", **WIDE["llama"])
    for name in FILES:
        change(tmp_path / name, eos_token_id=None)
    change(tmp_path / "tokenizer_config.json", eos_token=None)
    return tmp_path


def change(path: Path, **fields: Any) -> None:
    """Sets fields of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def name_in_tokenizer(folder: Path, token_id: int) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    change(folder / "tokenizer_config.json", eos_token=tokenizer.convert_ids_to_tokens(token_id))


def run(kind: EngineKind, folder: Path) -> Outputs:
    engine = load_saved(kind, folder)
    engine.warm_up()
    engine.add_request(engine_request("stops", PROMPT, max_tokens=LENGTH, ignore_eos=False))
    engine.add_request(engine_request("goes on", PROMPT, max_tokens=LENGTH, ignore_eos=True))
    outputs = Outputs(engine).run()
    engine.shutdown()
    return outputs


@pytest.mark.parametrize("place", PLACES[-1:] if HAS_VLLM else PLACES)
def test_an_end_that_one_file_names_ends(kind: EngineKind, folder: Path, free: list[int], place: str) -> None:
    """`all`: the other files name another id, as in chat models that keep files of their base model."""
    end = free[4]
    if place == "config":
        change(folder / "config.json", eos_token_id=end)
    elif place == "generation config":
        change(folder / "generation_config.json", eos_token_id=end)
    elif place == "list":
        change(folder / "generation_config.json", eos_token_id=[EOS_ID, end])
    else:
        name_in_tokenizer(folder, end)
    if place == "all":
        change(folder / "config.json", eos_token_id=EOS_ID)
        change(folder / "generation_config.json", eos_token_id=[EOS_ID])
    outputs = run(kind, folder)
    assert outputs.token_ids["stops"] == free[: free.index(end) + 1]
    assert outputs.finished["stops"] is FinishReason.STOP
    assert outputs.token_ids["goes on"] == free


@pytest.mark.parametrize("file", FILES[-1:] if HAS_VLLM else FILES)
@pytest.mark.parametrize("eos", OUTSIDE[-1:] if HAS_VLLM else OUTSIDE)
def test_an_end_outside_of_the_vocabulary_ends_nothing(
    kind: EngineKind, folder: Path, free: list[int], file: str, eos: int | list[int]
) -> None:
    change(folder / file, eos_token_id=eos)
    outputs = run(kind, folder)
    assert outputs.token_ids == {"stops": free, "goes on": free}
    assert outputs.finished["stops"] is FinishReason.LENGTH


def test_an_end_that_only_the_tokenizer_knows_ends_nothing(
    kind: EngineKind, folder: Path, free: list[int]
) -> None:
    """The token was added to the tokenizer, but the model's embeddings have no row for it."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    tokenizer.save_pretrained(folder)
    assert tokenizer.eos_token_id == json.loads((folder / "config.json").read_text())["vocab_size"]
    outputs = run(kind, folder)
    assert outputs.token_ids == {"stops": free, "goes on": free}


def free_output(kind: EngineKind, folder: Path) -> tuple[Prompt, list[int], int]:
    """Returns TEXT's prompt, its output if nothing ends it, and the index of an id that is new there."""
    engine = load_saved(kind, folder)
    prompt = engine.encode(JobRequest(prompt=TEXT))
    [token_ids] = generate(engine, engine_request("free", prompt.token_ids, max_tokens=12))
    engine.shutdown()
    return prompt, token_ids, next(at for at in range(4, 12) if token_ids.index(token_ids[at]) == at)


def job_text(kind: EngineKind, folder: Path, logged: Sequence[Entry] = (), **options: Any) -> str:
    """Returns the text of a job on TEXT, with what was logged before, from an engine of its own."""
    engine = load_saved(kind, folder)
    request = parse_request({"prompt": TEXT, "max_tokens": 12, "temperature": 0, **options})
    run = JobRun(
        Claim("job_1", "token", request, False, [entry.encode() for entry in (StatusEntry(1), *logged)])
    )
    for sequence in run.begin(run.prepare(engine)):
        engine.add_request(sequence)
    while not run.outcome:
        for output in engine.step():
            if run.push(output):
                engine.abort_request(output.request_id)
    engine.shutdown()
    [choice] = choices([*run.claim.entries, *map(parse_entry, run.next_write().entries)], 1)
    return choice.text


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_the_text_of_an_end_is_not_shown(kind: EngineKind, folder: Path, ignore_eos: bool) -> None:
    """This includes an ordinary token of the vocabulary. With `ignore_eos` it is text like any other."""
    prompt, token_ids, end = free_output(kind, folder)
    change(folder / "config.json", eos_token_id=token_ids[end])
    shown = token_ids if ignore_eos else token_ids[:end]
    assert job_text(kind, folder, ignore_eos=ignore_eos) == prompt.decode(shown)


def test_a_stop_string_may_be_a_special_token(kind: EngineKind, folder: Path) -> None:
    """This holds in a first attempt, and in one that continues from another worker's log."""
    prompt, token_ids, end = free_output(kind, folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    stop = tokenizer.convert_ids_to_tokens(token_ids[end])
    change(folder / "tokenizer_config.json", extra_special_tokens=[stop])
    text = prompt.decode(token_ids[:end])
    assert job_text(kind, folder, stop=stop, ignore_eos=True) == text
    log = TokenEntry(0, tuple(token_ids[:3]), prompt.decode(token_ids[:3]))
    assert job_text(kind, folder, [log, StatusEntry(2)], stop=stop) == text


def test_a_model_without_an_end_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The default of transformers' class for it is id 2, which may be any word of this model."""
    (folder / "generation_config.json").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert find_eos_ids(str(folder), tokenizer, 320) == frozenset()
    assert "names no end of sequence" in caplog.text


def test_the_text_part_of_a_model_may_name_its_end(folder: Path) -> None:
    change(folder / "config.json", eos_token_id=3, text_config={"eos_token_id": [4, 5]})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert find_eos_ids(str(folder), tokenizer, 320) == {3, 4, 5}


@pytest.mark.parametrize(("content", "reason"), [("{", "is not valid JSON"), ("[]", "is not a JSON object")])
def test_a_damaged_file_is_named(folder: Path, content: str, reason: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(EngineError, match=f"generation_config.json {reason}"):
        find_eos_ids(str(folder), tokenizer, 320)
