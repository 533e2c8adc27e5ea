"""`make serve` and `tokenrelay serve`."""

from __future__ import annotations

import sys


def main() -> int:
    """Returns the exit code. A Ctrl-C before anything was started is an orderly end, as a later one is."""
    try:
        # Imported here, because that takes long enough to be interrupted.
        from deploy import serve

        return serve.main()
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
