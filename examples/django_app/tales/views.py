from celery.result import AsyncResult
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from tales.tasks import count_words
from tokenrelay import get_app, submit


@csrf_exempt  # So that curl may post to it. A form of your own pages needs no exemption.
@require_POST
def submit_tale(request):
    job_id = submit(f"Once upon a time there was {request.POST['name']}", max_tokens=40)
    return JsonResponse({"id": job_id}, status=202)


@require_GET
def show_tale(_request, job_id):
    # `app=` is what matters: without it, Celery asks the project's own app, which knows no jobs.
    result = AsyncResult(job_id, app=get_app())
    state = result.state  # Read once: each use asks Redis again, and the job may end in between.
    tale = {"id": job_id, "state": state}
    if state == "SUCCESS":
        tale["text"] = result.result["output"][0]["text"]
        tale["words"] = count_words.delay(tale["text"]).get()  # A task of the project's own app.
    return JsonResponse(tale)
