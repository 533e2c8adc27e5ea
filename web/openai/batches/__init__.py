"""OpenAI's batches on the job queue: their files, their lines, and what moves them on.

`web/routes/batches.py` has the views, and docs/batches.md says how each line is answered exactly once.
"""
