"""Loads a model: what is served, how much memory it gets, and what runs it."""
