"""OpenAI's responses on the job queue. A response is a job, and all that shows it is in the job's record.

`web/routes/responses.py` has the views.
"""
