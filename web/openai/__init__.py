"""OpenAI's API on the job queue: its requests become jobs, and jobs are shown in its shapes.

`web/routes/openai.py` has the views.
"""
