"""Files and batches in one process and with one Redis."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis import Redis

from tasks.batch import Batch, FedLine, LineAnswer, OpenLine, Span
from tasks.batches import Batches
from tasks.errors import JobNotFoundError
from tasks.files import Files
from tasks.request import parse_request
from tasks.script_source import Encoded
from tasks.scripts import Scripts
from tasks.settings import Settings
from tasks.submission import Draft, accepted
from tasks.uploads import FileRecord
from tests.transitions.harness import Harness

ENDPOINT = "/v1/completions"
CONTENTS = b"".join(b'{"custom_id": "%d"}\n' % number for number in range(4))
LINE_BYTES = len(CONTENTS) // 4


class RepeatedScripts(Scripts):
    """Runs each call twice, as redis-py does when an answer was lost. The caller gets the second one."""

    def _run(self, name: str, arguments: Sequence[Encoded]) -> Any:
        super()._run(name, arguments)
        return super()._run(name, arguments)


class BatchHarness(Harness):
    """A harness with files and batches."""

    def __init__(self, redis: Redis, settings: Settings, kind: type[Scripts]) -> None:
        super().__init__(redis, settings)
        scripts = kind(redis, settings, self.send_offers)
        self.files, self.batches = Files(scripts), Batches(scripts)

    def file(self, contents: bytes = CONTENTS, owner: str = "ada", seconds: float = 60) -> FileRecord:
        upload = self.files.upload(owner)
        upload.write(contents)
        return upload.finish("a.jsonl", "batch", seconds)

    def create(self, file: FileRecord | None = None, **changed: Any) -> Batch:
        arguments = {
            "owner": "ada",
            "input_file_id": (file or self.file()).id,
            "endpoint": ENDPOINT,
            "hours": 24,
            "metadata": {},
            "output_seconds": None,
            "idempotency_key": None,
        }
        return self.batches.create(**{**arguments, **changed})

    def started(self, total: int = 4) -> Batch:
        batch = self.create()
        self.batches.start(batch.id, total, "m", [])
        return self.batches.get(batch.id)

    def feed(self, batch: Batch, first: int, count: int = 1, **options: Any) -> str:
        """Makes jobs of lines. first: the number of the first one, counted from 1."""
        request = accepted(parse_request({"prompt": "x", "priority": "low", **options}), self.settings)
        lines = [FedLine(first + i, str(first + i), [Draft.of(request)]) for i in range(count)]
        return self.batches.feed(batch, span(first, count), lines)

    def end_jobs(self, batch: Batch) -> list[OpenLine]:
        """Cancels the jobs of the open lines, and returns these."""
        for line in self.batches.open_lines(batch.id):
            for job_id in line.job_ids:
                with suppress(JobNotFoundError):  # The test deleted it.
                    self.store.cancel(job_id)
        return sorted(self.batches.open_lines(batch.id), key=lambda line: line.number)

    def counts(self, batch: Batch) -> tuple[int, int, int]:
        found = self.batches.get(batch.id)
        return found.total, found.completed, found.failed

    def text(self, file_id: str | None) -> str:
        return b"".join(self.files.pieces(self.files.get(str(file_id)))).decode()


def span(first: int, count: int) -> Span:
    return Span((first - 1) * LINE_BYTES, (first - 1 + count) * LINE_BYTES, first - 1 + count)


def answers(lines: Sequence[OpenLine], *, is_error: bool = False) -> list[LineAnswer]:
    return [LineAnswer(line, f'{{"line":{line.number}}}', is_error, 3, 2) for line in lines]
