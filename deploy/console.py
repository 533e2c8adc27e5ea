"""What `make serve` shows: each line with its process' name."""

from __future__ import annotations

import io
import os
import sys

NAME_WIDTH = len("worker")


def prefix(name: str) -> str:
    return f"{name:{NAME_WIDTH}} | "


class Console(io.TextIOBase):
    """Standard output, for as long as somebody reads it: without a reader there are still DATA_DIR's logs."""

    def __init__(self) -> None:
        self._partial_lines: dict[str, bytes] = {}
        self.last_lines: dict[str, str] = {}
        """By process, its latest line that is not empty."""

    def print_output(self, name: str, output: bytes) -> None:
        """A piece of a process' output, cut anywhere."""
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
