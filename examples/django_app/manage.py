"""A Django project that submits jobs through Redis, beside its own Celery app.

    REDIS_URL=... ENGINE=echo python examples/django_app/manage.py runserver 5001
    curl localhost:5001/tales/ -d name=Mira
    curl localhost:5001/tales/JOB_ID/

REDIS_URL and the settings that name the model (ENGINE, MODEL_ID, SERVED_MODEL_NAME) must be the
same as the workers'.
"""

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
execute_from_command_line(sys.argv)
