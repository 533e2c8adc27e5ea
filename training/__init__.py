"""How the bundled model was made: a seeded writer of tales, the training run, the evaluation."""
