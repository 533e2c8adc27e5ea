"""ENGINE=transformers: continuous batches of sequences, one step at a time."""
