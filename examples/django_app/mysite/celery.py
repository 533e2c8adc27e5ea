"""The project's own Celery app. It has its own broker, and its workers do not see Tokenrelay's jobs."""

from celery import Celery

app = Celery("mysite", broker="memory://")
app.conf.task_always_eager = True  # Tasks run in the web process: the example needs no second worker.
app.autodiscover_tasks(["tales"])
