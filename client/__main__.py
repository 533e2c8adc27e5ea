"""`python -m client`: the client's commands, without the rest of the product."""

from __future__ import annotations

import argparse
import sys

from client import commands


def main() -> int:
    """Returns the exit code; argparse itself exits with 2 after wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m client", description="Talk to a Tokenrelay server.")
    commands.add_to(parser.add_subparsers(required=True, metavar="COMMAND"))
    options = parser.parse_args()
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    sys.exit(main())
