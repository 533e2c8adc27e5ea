"""The training text: tales and conversations as token ids, in one long row.

Every document ends with ``</s>``, which is also what the next one begins with.
"""

from dataclasses import dataclass
from multiprocessing import Pool
from typing import Protocol

import numpy as np
import numpy.typing as npt

from training.chat import write_conversation
from training.tales import write_tale
from training.tokenizer import render_conversation

CHAT_EVERY = 4  # one document in four is a conversation
PROCESSES = 2
CHUNK = 500  # documents handed to a process at a time


class Encoder(Protocol):
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Corpus:
    """ids: uint16 [tokens], ``</s>`` first; starts: int64 [documents], where the ``</s>`` before each is."""

    ids: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]


def write_document(seed: int, number: int) -> str:
    if number % CHAT_EVERY == CHAT_EVERY - 1:
        return render_conversation(write_conversation(seed, number))
    return write_tale(seed, number).text


def write_documents(seed: int, count: int) -> list[str]:
    """Documents 0 to ``count`` of ``seed``, without the final ``</s>`` of each."""
    with Pool(PROCESSES) as pool:
        return pool.starmap(write_document, ((seed, number) for number in range(count)), CHUNK)


def encode_documents(documents: list[str], tokenizer: Encoder, end_id: int) -> Corpus:
    rows = [[*tokenizer.encode(text, add_special_tokens=False), end_id] for text in documents]
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    ids = np.fromiter((token for row in rows for token in row), dtype=np.uint16, count=int(lengths.sum()))
    return Corpus(np.concatenate((np.array([end_id], dtype=np.uint16), ids)), starts)
