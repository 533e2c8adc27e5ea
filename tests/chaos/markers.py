"""Words of a prompt that make `tests.chaos.faulty_tokenizer` fail."""

UNENCODABLE = "unencodable"
"""A prompt that begins with it cannot be tokenized."""

UNDECODABLE = "undecodable"
"""An output that contains it cannot be decoded."""
