"""The HTTP and WebSocket server: `gunicorn -c web/gunicorn.conf.py 'web:create_app()'`."""

from __future__ import annotations

from flask import Flask, Response

from tasks.app import JobApp
from tasks.batches import Batches
from tasks.files import Files
from tasks.reading import JobReader
from tasks.settings import Settings, get_settings
from web import auth, error_responses, hosts
from web.caps import StreamCap
from web.openai import errors as openai_errors
from web.openai.batches.feeder import BatchFeeder
from web.relay import job_log
from web.relay.hub import Hub
from web.relay.job_log import JobLog
from web.routes import batches as batches_routes
from web.routes import demo, docs, health, jobs, models, openai, responses, site, streams
from web.routes import files as files_routes
from web.services import Services, install
from web.serving.threads import in_thread
from web.websockets import NoThread


def create_app(settings: Settings | None = None) -> Flask:
    """Returns the WSGI app. It opens no connection before the first request. Raises SettingsError."""
    settings = settings or get_settings()
    app = Flask(__name__, static_folder=site.PAGES, static_url_path="/static")
    app.config["SOCK_SERVER_OPTIONS"] = {"thread_class": NoThread}
    # A redirect would answer with a page of HTML.
    app.url_map.merge_slashes = False

    url, jobs_app = settings.required_redis_url, JobApp(settings)
    relay_log = JobLog(JobReader(jobs_app.scripts(job_log.connect(url))))
    stream_cap = StreamCap(settings.max_streams_per_key)
    store = jobs_app.store
    files, batches = Files(store.scripts, in_thread), Batches(store.scripts)
    feeder = BatchFeeder(store, batches, files)
    install(app, Services(settings, store, relay_log, Hub(url), stream_cap, files, batches, feeder))

    error_responses.register(app)
    hosts.register(app)
    auth.register(app)
    app.after_request(_no_sniffing)
    for blueprint in (jobs.bp, streams.bp, demo.bp, health.bp, docs.bp, site.bp):
        app.register_blueprint(blueprint)
    for blueprint, shape in (
        (models.bp, openai_errors.SHAPE),
        (openai.completions, openai_errors.COMPLETIONS_SHAPE),
        (openai.chat, openai_errors.SHAPE),
        (files_routes.bp, openai_errors.SHAPE),
        (batches_routes.bp, openai_errors.SHAPE),
        (responses.bp, openai_errors.RESPONSES_SHAPE),
    ):
        app.register_blueprint(blueprint)
        error_responses.shape_errors(app, blueprint, shape)
    return app


def _no_sniffing(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
