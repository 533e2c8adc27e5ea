"""Words of a prompt that break `tests.chaos.fragile`."""

UNENCODABLE = "unencodable"
"""A prompt that begins with it cannot be tokenized."""

UNDECODABLE = "undecodable"
"""It cannot be decoded."""
