"""The command `tokenrelay`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; argparse itself exits with 2 after wrong usage."""
    try:
        # Imported here, because that takes long enough to be interrupted.
        from tokenrelay.command_line import run

        return run(arguments)
    except KeyboardInterrupt:
        return 1


if __name__ == "__main__":
    sys.exit(main())
