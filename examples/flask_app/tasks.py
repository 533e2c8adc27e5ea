"""The Flask project's own Celery app and tasks, as many projects have them."""

from celery import Celery

app = Celery("flask_project", broker="memory://")
app.conf.task_always_eager = True  # Tasks run in the web process: the example needs no second worker.


@app.task
def count_words(text):
    return len(text.split())
