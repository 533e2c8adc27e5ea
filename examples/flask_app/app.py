"""A Flask app that lets Tokenrelay do the slow work.

    flask --app examples/flask_app/app run --port 5000
    curl -i localhost:5000/tales -d name=Mira
    curl localhost:5000/tales/JOB_ID

It talks to Tokenrelay over HTTP, so it needs neither Redis nor Tokenrelay's settings. The client imports no
Celery, and nothing of Tokenrelay is called `tasks`, so this project's own Celery app and `tasks.py` are not
affected.
"""

import os

from flask import Flask, abort, request, url_for

import tasks  # This project's own, beside this file.
from tokenrelay import Client, InvalidRequestError, NotFoundError, UnavailableError, UnreachableError

app = Flask(__name__)

# All threads share one client, which keeps its connections open. A web request should not wait long, so calls
# give up after 5 seconds instead of 60.
client = Client(
    os.environ.get("TOKENRELAY_URL", "http://127.0.0.1:8000"),
    os.environ.get("TOKENRELAY_API_KEY"),
    retry_seconds=5,
)


@app.post("/tales")
def submit():
    try:
        job = client.submit(
            f"Once upon a time there was {request.form['name']}",
            max_tokens=40,
            # A browser that repeats its request with the same key gets the same job, not a second one.
            idempotency_key=request.headers.get("Idempotency-Key"),
        )
    except InvalidRequestError as error:
        abort(422, str(error))
    except (UnavailableError, UnreachableError) as error:  # The queue is full, or the server restarts.
        abort(503, str(error))
    return {"id": job.id, "status": job.status}, 202, {"Location": url_for("show", job_id=job.id)}


@app.get("/tales/<job_id>")
def show(job_id):
    try:
        job = client.get(job_id)
    except NotFoundError:
        abort(404)
    tale = {"id": job.id, "status": job.status, "text": job.text, "error": job.error}
    if job.is_ended:
        # A task of this project's own Celery app. It has nothing to do with the job.
        tale["words"] = tasks.count_words.delay(job.text).get()
    return tale
