"""The output of `make serve`: each line begins with the name of its process."""

from __future__ import annotations

import io
import os
import sys

NAME_WIDTH = len("worker")


def prefix(name: str) -> str:
    return f"{name:{NAME_WIDTH}} | "


class Console(io.TextIOBase):
    """Standard output, as long as somebody reads it. The logs in DATA_DIR have everything."""

    def __init__(self) -> None:
        self._partial_lines: dict[str, bytes] = {}
        self.last_lines: dict[str, str] = {}
        """The latest line of each process that is not empty."""

    def print_output(self, name: str, output: bytes) -> None:
        """Prints a piece of output, which may be cut anywhere: an incomplete line waits for its rest."""
        *lines, rest = (self._partial_lines.get(name, b"") + output).split(b"\n")
        self._partial_lines[name] = rest
        for line in lines:
            text = line.decode(errors="replace")
            self.write(f"{prefix(name)}{text}\n")
            self.last_lines[name] = text or self.last_lines.get(name, "")

    def write(self, text: str) -> int:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return len(text)
