"""Restricts the output of a sequence to a grammar."""
