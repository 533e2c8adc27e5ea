"""Text to token ids and back: the same for every engine that has a tokenizer."""
