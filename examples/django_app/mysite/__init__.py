# Celery's usual place in a Django project. It runs before any view imports Tokenrelay, so this project's app
# becomes the default app of the process, and Tokenrelay does not replace it.
from mysite.celery import app as celery_app

__all__ = ["celery_app"]
