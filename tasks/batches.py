"""Reads and changes batches, for clients and for the feeders of the web processes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Literal, cast

from tasks import keys
from tasks.batch import Batch, BatchError, FedLine, LineAnswer, OpenLine, Span, Turn, batch_from_record
from tasks.errors import (
    BatchNotFoundError,
    ConflictError,
    FieldError,
    IdempotencyConflictError,
    InvalidRequestError,
    NoSuchFileError,
    OverShareError,
    TokenrelayError,
    UnavailableError,
)
from tasks.files import ids_after
from tasks.scripts import Answer, Scripts
from tasks.submission import MEMORY_RETRY_SECONDS, arguments_for, hashed, refusal

TURN_SECONDS = 5.0
"""How long a web process has a batch for itself. If it dies, another one goes on after that."""

BATCHES_PER_TURN = 16
"""The most batches, expired files and expired batches in one call of take_batches.lua."""

QUEUE_SHARE = 0.5
"""The part of MAX_QUEUED_JOBS that batches may fill, so that there is always room for other jobs."""

LONGEST_FILE_BYTES = 500_000_000
"""Redis' strings are not longer than 512 MiB, unless it is told otherwise."""

Outcome = Literal["completed", "cancelled", "failed"]


class Batches:
    """Reads and changes batches. Every method may raise redis.exceptions.RedisError.

    longest_file: bytes that a batch may write into one file.
    """

    def __init__(self, scripts: Scripts, longest_file: int = LONGEST_FILE_BYTES) -> None:
        self.longest_file = longest_file
        self._scripts = scripts
        self._redis = scripts.redis
        self._settings = scripts.settings

    # --- for clients

    def create(
        self,
        owner: str,
        input_file_id: str,
        endpoint: str,
        hours: int,
        metadata: Mapping[str, str],
        output_seconds: float | None,
        idempotency_key: str | None,
    ) -> Batch:
        """Accepts a batch. The same key and arguments lead back to the same batch.

        Raises NoSuchFileError, InvalidRequestError, IdempotencyConflictError, OverShareError and
        UnavailableError.
        """
        # A key's batch has an id that is made of the key, so that the key lives as long as the batch.
        known_id = hashed([owner, idempotency_key])[:32] if idempotency_key else secrets.token_hex(16)
        batch_id = f"batch_{known_id}"
        answer = self._scripts.call(
            "create_batch",
            id=batch_id,
            owner=owner,
            body_hash=hashed([input_file_id, endpoint, hours, dict(metadata), output_seconds]),
            input_file_id=input_file_id,
            endpoint=endpoint,
            completion_window=f"{hours}h",
            window_seconds=hours * 3600,
            output_seconds=output_seconds or 0,
            metadata=json.dumps(dict(metadata), ensure_ascii=False),
            memory_share=self._settings.own_share,
        )
        if answer.status != "created":
            raise _creation_refusal(answer, input_file_id)
        return self.get(batch_id, owner)

    def get(self, batch_id: str, owner: str | None = None) -> Batch:
        """Returns a batch. `owner` None reads anybody's. Raises BatchNotFoundError."""
        found = batch_from_record(cast("dict[str, str]", self._redis.hgetall(keys.batch(batch_id))))
        if found is None or (owner is not None and found.owner != owner):
            raise BatchNotFoundError(f"there is no batch {batch_id}")
        return found

    def list_batches(self, owner: str, limit: int, after: str | None) -> tuple[list[Batch], bool]:
        """Returns batches, newest first, and whether there are more. Raises what `ids_after` raises."""
        ids = ids_after(self._redis, keys.batches(owner), after)
        pipe = self._redis.pipeline(transaction=False)
        for batch_id in ids[:limit]:
            pipe.hgetall(keys.batch(batch_id))
        found = [batch_from_record(fields) for fields in pipe.execute()]
        return [batch for batch in found if batch], len(ids) > limit

    def cancel(self, batch_id: str, owner: str) -> Batch:
        """Makes a batch end. Raises BatchNotFoundError, and ConflictError if it has ended in another way."""
        answer = self.close(batch_id, "cancelled", owner=owner)
        if answer.status == "not_found":
            raise BatchNotFoundError(f"there is no batch {batch_id}")
        if answer.status == "ended":
            raise ConflictError(f"the batch is {answer['status']}")
        return self.get(batch_id, owner)

    # --- for feeders

    def take(self) -> Turn:
        """Returns the batches that this process is to move on, for TURN_SECONDS."""
        answer = self._scripts.call("take_batches", most=BATCHES_PER_TURN, turn_seconds=TURN_SECONDS)
        due_in = answer.fields.get("due_in")
        return Turn(
            answer["ids"], answer["lost"], answer["on_disk"], None if due_in is None else float(due_in)
        )

    def rest(self, batch_id: str, seconds: float) -> None:
        """Gives the batch its next turn in some seconds."""
        self._scripts.call("rest_batch", id=batch_id, seconds=seconds)

    def start(self, batch_id: str, total: int, model: str | None, errors: Sequence[BatchError]) -> None:
        """Ends the validation. With errors, the batch is to fail."""
        self._scripts.call(
            "start_batch",
            id=batch_id,
            total=total,
            model=model or "",
            errors=_encoded(errors),
            output_file_id=f"file-{secrets.token_hex(16)}",
            error_file_id=f"file-{secrets.token_hex(16)}",
        )

    def feed(self, batch: Batch, span: Span, lines: Sequence[FedLine]) -> str:
        """Stores the jobs of the lines in a span, which name one model.

        Returns `fed`, `moved` or `closed`. Raises what `Store.submit` raises.
        """
        drafts = [draft for line in lines for draft in line.drafts]
        answer = self._scripts.call(
            "feed_batch",
            id=batch.id,
            offset=span.start,
            next_offset=span.end,
            next_line=span.end_line,
            lines=[
                {"number": line.number, "custom_id": line.custom_id, "jobs": len(line.drafts)}
                for line in lines
            ],
            max_queued=self.most_queued,
            trusts_settings=True,
            **arguments_for(drafts, batch.owner, self._settings),
        )
        if answer.status not in ("fed", "moved", "closed"):
            request = drafts[0].request
            raise refusal(answer, request["model"], request.get("engine"), self._settings)
        return answer.status

    @property
    def most_queued(self) -> int:
        """How many jobs of a model may wait when a batch adds jobs."""
        return max(1, int(self._settings.max_queued_jobs * QUEUE_SHARE))

    def skip(self, batch: Batch, span: Span, texts: Sequence[str]) -> str:
        """Takes the lines in a span without jobs. texts: their lines of the error file.

        Returns `skipped`, `moved`, `gone`, `damaged` or `too_long`.
        """
        return self._scripts.call(
            "skip_lines",
            id=batch.id,
            offset=span.start,
            next_offset=span.end,
            next_line=span.end_line,
            longest_file=self.longest_file,
            errors=texts,
        ).status

    def open_lines(self, batch_id: str) -> list[OpenLine]:
        """Returns the lines whose answers are not written yet."""
        found = self._scripts.call("open_lines", id=batch_id)["lines"]
        lines = [(int(number), json.loads(entry), bool(is_ended)) for number, entry, is_ended in found]
        return [OpenLine(number, line["custom_id"], line["jobs"], ended) for number, line, ended in lines]

    def answer(self, batch_id: str, answers: Sequence[LineAnswer]) -> str:
        """Writes answers and removes their jobs. Returns `answered`, `gone`, `damaged` or `too_long`."""
        return self._scripts.call(
            "answer_lines",
            id=batch_id,
            longest_file=self.longest_file,
            lines=[
                {
                    "number": answer.line.number,
                    "jobs": answer.line.job_ids,
                    "is_error": answer.is_error,
                    "prompt_tokens": answer.prompt_tokens,
                    "completion_tokens": answer.completion_tokens,
                }
                for answer in answers
            ],
            answers=[answer.text for answer in answers],
        ).status

    def close(
        self, batch_id: str, outcome: Outcome, errors: Sequence[BatchError] = (), *, owner: str = ""
    ) -> Answer:
        """Makes a batch take no more jobs. Answers as close_batch.lua."""
        return self._scripts.call(
            "close_batch", id=batch_id, owner=owner, outcome=outcome, errors=_encoded(errors)
        )

    def end(self, batch_id: str) -> Answer:
        """Ends a batch that was closed. Answers as end_batch.lua."""
        return self._scripts.call("end_batch", id=batch_id)


def _creation_refusal(answer: Answer, input_file_id: str) -> TokenrelayError:
    match answer.status:
        case "conflict":
            return IdempotencyConflictError()
        case "no_file":
            return NoSuchFileError(f"there is no file {input_file_id}")
        case "wrong_purpose":
            return InvalidRequestError([FieldError("input_file_id", "names a file that is not for batches")])
        case "over_share":
            return OverShareError(retry_after=MEMORY_RETRY_SECONDS)
        case "nearly_full":
            return UnavailableError("Redis is nearly full", retry_after=MEMORY_RETRY_SECONDS)
        case _:
            raise AssertionError(f"create_batch.lua answered {answer.status!r}")


def _encoded(errors: Sequence[BatchError]) -> str:
    return json.dumps([error.to_dict() for error in errors], ensure_ascii=False) if errors else ""
