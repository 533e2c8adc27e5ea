"""All errors of the product. Each knows its HTTP status and code; its docstring is its default text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One bad field of a request, by its path (`messages.0.role`); empty for the body as a whole."""

    field: str
    message: str


class TokenrelayError(Exception):
    """Something went wrong."""

    status = 500
    code = "internal_error"
    title = "Internal error"

    def __init__(self, detail: str | None = None, *, retry_after: int | None = None) -> None:
        self.detail = detail or (self.__doc__ or "").strip()
        self.retry_after = retry_after
        """Seconds after which the same call may succeed; None if waiting does not help."""
        super().__init__(self.detail)


class MalformedRequestError(TokenrelayError):
    """The body is not valid JSON."""

    status = 400
    code = "malformed_request"
    title = "Malformed request"


class InvalidRequestError(TokenrelayError):
    """The request has invalid fields."""

    status = 422
    code = "invalid_request"
    title = "Invalid request"

    def __init__(self, errors: Sequence[FieldError], detail: str | None = None) -> None:
        self.errors = tuple(errors)
        named = (f"{e.field}: {e.message}" if e.field else e.message for e in self.errors)
        super().__init__(detail or "; ".join(named))


class UnknownModelError(InvalidRequestError):
    """No worker ever announced the model of the request."""

    def __init__(self, message: str) -> None:
        super().__init__([FieldError("model", message)])


class IdempotencyConflictError(InvalidRequestError):
    """This Idempotency-Key was used with another request body."""

    code = "idempotency_conflict"
    title = "Idempotency key reused"

    def __init__(self) -> None:
        super().__init__([FieldError("Idempotency-Key", "was used with another request body")])


class UnauthorizedError(TokenrelayError):
    """A valid API key is required: Authorization: Bearer KEY."""

    status = 401
    code = "unauthorized"
    title = "Unauthorized"


class JobNotFoundError(TokenrelayError):
    """There is no such job."""

    status = 404
    code = "job_not_found"
    title = "No such job"


class ModelNotFoundError(TokenrelayError):
    """No worker ever announced this model."""

    status = 404
    code = "model_not_found"
    title = "No such model"


class ConflictError(TokenrelayError):
    """The job's status does not allow this."""

    status = 409
    code = "conflict"
    title = "Conflict"


class QueueFullError(TokenrelayError):
    """The queue is full."""

    status = 429
    code = "queue_full"
    title = "Queue full"


class OverShareError(TokenrelayError):
    """Your jobs use up your share of the server's memory. Delete ended ones, or wait until they expire."""

    status = 429
    code = "over_share"
    title = "Share of memory used up"


class FilesOverShareError(TokenrelayError):
    """Your files take as much as an owner's may. Delete some, or wait until they expire."""

    status = 429
    code = "files_over_share"
    title = "Share for files used up"


class NoSuchFileError(TokenrelayError):
    """There is no such file."""

    status = 404
    code = "file_not_found"
    title = "No such file"


class FileDamagedError(TokenrelayError):
    """The contents of the file are missing or damaged."""

    status = 410
    code = "file_damaged"
    title = "File damaged"


class BatchNotFoundError(TokenrelayError):
    """There is no such batch."""

    status = 404
    code = "batch_not_found"
    title = "No such batch"


class UnavailableError(TokenrelayError):
    """The service cannot take jobs now; nothing was accepted."""

    status = 503
    code = "unavailable"
    title = "Unavailable"


class ModelNotAvailableError(UnavailableError):
    """No worker serves this model at present; nothing was accepted."""

    code = "model_not_available"
    title = "Model not available"


class FilesDirError(UnavailableError):
    """The folder of the files, FILES_DIR, cannot be used."""


class OutcomeUnknownError(UnavailableError):
    """The job may have been accepted: Redis' answer was lost. Repeat with the same Idempotency-Key."""

    code = "outcome_unknown"
    title = "Outcome unknown"


class UnreadableRecordError(TokenrelayError):
    """The job's record cannot be read."""

    code = "unreadable_record"
    title = "Unreadable record"


class SettingsError(TokenrelayError):
    """The settings are invalid."""

    code = "invalid_settings"


class EngineError(TokenrelayError):
    """The engine failed."""

    code = "engine_error"


class PromptTooLongError(EngineError):
    """The prompt does not fit into the model's length."""

    code = "prompt_too_long"


class InvalidPromptError(EngineError):
    """The prompt has token ids that the model does not have."""

    status = 400
    code = "invalid_prompt"
    title = "Invalid prompt"


class InvalidMessagesError(EngineError):
    """The model's chat template cannot render these messages."""

    status = 400
    code = "invalid_messages"
    title = "Invalid messages"


class InvalidGrammarError(EngineError):
    """The grammar of `structured_outputs` cannot be used."""

    status = 422
    code = "invalid_grammar"
    title = "Invalid grammar"

    def __init__(self, kind: str, problem: str) -> None:
        """kind: the field of `structured_outputs`. problem: what follows the field's name."""
        self.field = f"structured_outputs.{kind}"
        self.problem = problem
        super().__init__(f"{self.field}: {problem}")


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's text, to be part of one line of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
