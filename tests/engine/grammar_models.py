"""Grammars, and models with tokenizers of several kinds to try them on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
from tokenizers import Tokenizer

from tasks.job import FinishReason, Status
from tasks.leases import Claim
from tasks.request import JobRequest, parse_request
from tasks.settings import Settings
from tests.engine.test_tokenizers import LLAMA_LIKE, save_sentencepiece
from tests.engine.tiny import WIDE, Outputs, save_model, settings_for
from tests.unit.small_tokenizers import TOKENIZERS
from worker.engine import load_engine
from worker.engine.base import Engine, EngineRequest, SamplingParams
from worker.engine.text.detokenizer import Detokenizer
from worker.engine.transformers.engine import TransformersEngine
from worker.job_run import JobRun

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["é", "\U0001f600", 'a"b']}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


NESTED: dict[str, Any] = {
    "$defs": {"leaf": {"anyOf": [{"type": "null"}, {"type": "boolean"}, {"const": {"x": None}}]}},
    "type": "array",
    "prefixItems": [{"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/leaf"}],
    "items": False,
    "minItems": 2,
}


CHOICES = ["yes", "no", "perhaps, «naïve»", '\U0001f98a\n\t"\\', "yes and no"]


BALANCED = 'start: s\ns: "(" s ")" | "[]" | /[0-9]{1,3}/'


def accepts_json(schema: Any) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        jsonschema.validate(json.loads(text), schema)
        return True

    return check


def matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


def is_balanced(text: str) -> bool:
    inner = text.strip("()")
    depth = len(text) - len(text.lstrip("("))
    return text == "(" * depth + inner + ")" * depth and bool(re.fullmatch(r"\[\]|[0-9]{1,3}", inner))


UNICODE = "[\u0430-\u044f\u0451]{2,4}(é|\U0001f600)/"


CASES: dict[str, tuple[dict[str, Any], Callable[[str], bool]]] = {
    "person": ({"json": PERSON}, accepts_json(PERSON)),
    "schema as a string": ({"json": json.dumps(NESTED)}, accepts_json(NESTED)),
    "regex": ({"regex": r"^[a-c]{2,5} [0-9]{3}$"}, matches(r"[a-c]{2,5} [0-9]{3}")),
    "unicode": ({"regex": UNICODE}, matches(UNICODE)),
    "choice": ({"choice": CHOICES}, CHOICES.__contains__),
    "lark": ({"grammar": BALANCED}, is_balanced),
}


ENGINES = ["bundled", "bundled by torch", "byte level", "straddling", "byte fallback", "sentencepiece"]


def loaded(name: str, folder: Path) -> Engine:
    match name:
        case "bundled":
            return load_engine(Settings(max_num_seqs=4, device="cpu"))
        case "bundled by torch":
            return load_engine(Settings(max_num_seqs=4, device="cpu", native_isa="none"))
        case "byte level":
            save_model(folder, "llama", **WIDE["llama"])
        case "sentencepiece":
            save_sentencepiece(folder, model_type="bpe", **LLAMA_LIKE)
        case _:
            save_with(folder, TOKENIZERS[name.replace(" ", "-")])
    return TransformersEngine(settings_for(folder))


def save_with(folder: Path, tokenizer: Tokenizer) -> None:
    save_model(folder, "llama", **WIDE["llama"], vocab_size=tokenizer.get_vocab_size() + 5, template=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": None}))


def remove_eos(folder: Path) -> None:
    """Removes the end of sequence from a saved model."""
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        kept = {
            key: value
            for key, value in json.loads(path.read_text()).items()
            if key not in ("eos_token", "eos_token_id")
        }
        path.write_text(json.dumps(kept))


class Restricted:
    """Makes sequences of a prompt and a compiled grammar, and runs them."""

    def __init__(self, engine: Engine, outputs: dict[str, Any], prompt: str = "a fox") -> None:
        self.engine = engine
        self.grammar = engine.compile(outputs)  # type: ignore[arg-type]
        self.prompt = engine.encode(JobRequest(prompt=prompt))

    def request(self, request_id: str = "one", logged: tuple[int, ...] = (), **options: Any) -> EngineRequest:
        sampling = SamplingParams(**{"max_tokens": 70, "temperature": 0.0, **options})
        matcher = self.grammar.matcher(logged)
        return EngineRequest(request_id, self.prompt.token_ids, logged, sampling, matcher)

    def run(self, **options: Any) -> tuple[list[int], FinishReason]:
        self.engine.add_request(self.request(**options))
        outputs = Outputs(self.engine).run()
        assert outputs.errors["one"] is None
        return outputs.token_ids["one"], outputs.finished["one"]

    def text(self, token_ids: list[int]) -> str:
        """Returns the text that a client gets, except for an end of sequence."""
        prompt = self.prompt
        detokenizer = Detokenizer(prompt.token_ids, prompt.decode, [], prompt.special_tokens)
        return detokenizer.push(token_ids) + detokenizer.finish()


def job_run(log: list[str], **body: Any) -> JobRun:
    """Returns a job with a grammar, which earlier attempts have written a log of."""
    request = parse_request({"prompt": "a fox", "structured_outputs": {"json": PERSON}, **body})
    return JobRun(Claim("job_1", "token", request, False, ['["s",1]', *log]))


def run_job(engine: Engine, run: JobRun) -> list[str]:
    """Runs a job to its end. Returns the entries that it adds to the log."""
    for request in run.begin(run.prepare(engine)):
        engine.add_request(request)
    entries: list[str] = []
    while True:
        write = run.next_write()
        entries += write.entries
        run.flushed_up_to(write.base + len(write.entries))
        if run.outcome:
            assert run.outcome.status is Status.COMPLETED, run.outcome
            return entries
        for output in engine.step():
            if run.push(output):
                engine.abort_request(output.request_id)
