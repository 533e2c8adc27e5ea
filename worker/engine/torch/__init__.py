"""Runs a model by torch: transformers' own code on our cache of keys and values."""
