"""Submit a job through Redis and wait for it with Celery's AsyncResult, beside a Celery app of your own.

    REDIS_URL=... ENGINE=echo python examples/celery_script.py "In a small village"

This way needs no HTTP server, but access to Redis. REDIS_URL and the settings that name the model (ENGINE,
MODEL_ID, SERVED_MODEL_NAME) must be the same as the workers'.
"""

import sys

from celery import Celery
from celery.result import AsyncResult

from tokenrelay import get_app, submit

# Stands for the Celery app that your program has already. It stays the default app of the process.
own_app = Celery("own", broker="memory://")

job_id = submit(sys.argv[1] if len(sys.argv) > 1 else "Once upon a time", max_tokens=30)
print("job", job_id)

# A job's id is its Celery task id. `app=` is what matters here: without it, Celery asks own_app, which knows
# nothing of the job. A program without a Celery app of its own can leave it out.
result = AsyncResult(job_id, app=get_app())
print(result.get(timeout=60)["output"][0]["text"])
