"""Makes the bundled model: a seeded writer of tales, the training run, and the evaluation."""
