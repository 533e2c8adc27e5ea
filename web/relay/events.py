"""The events of a job, as they go from its log to its readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tasks.job import Job
from tasks.log import TOKEN_MARK, DoneEntry, Entry, StatusEntry, TokenEntry, parse_entry
from web.relay.plain_tokens import PlainToken, plain_token

TYPES: dict[type[Entry], str] = {StatusEntry: "status", TokenEntry: "token", DoneEntry: "done"}
"""The contract's names of events."""


@dataclass(slots=True)
class Event:
    """Entry number `seq` of a log.

    entry_json: the log entry, unchanged. It is parsed only if somebody asks for `entry`.
    job: the ended job, on a reader's last event only. The log does not have it.
    plain: the parts of the entry that most clients get, if they were found without parsing it.
    """

    seq: int
    entry_json: str
    job: Job | None = field(default=None, compare=False, repr=False)
    plain: PlainToken | None = field(default=None, compare=False, repr=False)
    _entry: Entry | None = field(default=None, compare=False, repr=False)
    _shared: dict[object, bytes] | None = field(default=None, compare=False, repr=False)

    @property
    def entry(self) -> Entry:
        """The parsed entry. Raises ValueError, TypeError or LookupError if it is none."""
        if self._entry is None:
            self._entry = parse_entry(self.entry_json)
        return self._entry

    @property
    def type(self) -> str:
        return "token" if self.is_token else TYPES[type(self.entry)]

    @property
    def is_token(self) -> bool:
        return self.entry_json.startswith(TOKEN_MARK)

    @property
    def ends_job(self) -> bool:
        return not self.is_token and isinstance(self.entry, DoneEntry)

    def with_job(self, job: Job) -> Event:
        return Event(self.seq, self.entry_json, job, self.plain, self._entry)

    def shared(self, key: object, encode: Callable[[Event], bytes]) -> bytes:
        """Returns the first result of `encode` for this key, so an event is encoded once for all readers."""
        if self._shared is None:
            self._shared = {}
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = encode(self)
        return found


class Batch:
    """Successive events. `first_seq` is the number of the first one. All readers share a published batch."""

    __slots__ = ("_encoded", "_events", "entries", "first_seq", "plain")

    def __init__(self, first_seq: int, entries: list[str]) -> None:
        self.first_seq = first_seq
        self.entries = entries
        self.plain: list[PlainToken | None] = [plain_token(entry) for entry in entries]
        self._events: list[Event] | None = None
        self._encoded: dict[object, bytes] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Batch):
            return NotImplemented
        return (self.first_seq, self.entries) == (other.first_seq, other.entries)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def parse(cls, message: str) -> Batch:
        """Returns the events of a published message: the first seq and the entries, divided by line ends.

        Raises ValueError if an entry is none. Plain tokens are not parsed to find that out.
        """
        # Not splitlines, because an entry may have other line ends in its text.
        entries = message.split("\n")
        batch = cls(int(entries.pop(0)), entries)
        if not entries:
            raise ValueError("not a published message: it has no entries")
        if None in batch.plain:
            batch._parse_entries()
        return batch

    @property
    def events(self) -> list[Event]:
        if self._events is None:
            self._events = [
                Event(seq, entry, None, plain)
                for seq, (entry, plain) in enumerate(
                    zip(self.entries, self.plain, strict=True), self.first_seq
                )
            ]
        return self._events

    @property
    def ends_job(self) -> bool:
        if not self.entries or self.plain[-1] is not None:
            return False
        return self.events[-1].ends_job

    def shared(self, key: object, encode: Callable[[Batch], bytes]) -> bytes:
        """Returns the first result of `encode` for this key, so a batch is encoded once for all readers."""
        if self._encoded is None:
            self._encoded = {}
        found = self._encoded.get(key)
        if found is None:
            found = self._encoded[key] = encode(self)
        return found

    def _parse_entries(self) -> None:
        try:
            for event in self.events:
                if event.plain is None:
                    event.entry  # noqa: B018
        except (TypeError, LookupError) as error:
            raise ValueError(f"not a published message: {error}") from None
