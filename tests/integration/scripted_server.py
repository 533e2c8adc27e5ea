"""A server that gives the answers of a test's script."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JOB = {"id": "job_1", "status": "in_progress"}
PROBLEM = {"detail": "busy,\n come later", "code": "busy"}
BODY = json.dumps(JOB | PROBLEM).encode()
"""A body that has the fields of a job and those of a problem."""

Headers = dict[str, str]
Answer = tuple[int | None, Headers] | tuple[int | None, Headers, bytes]
"""Status, headers and body. If the status is None, the server breaks the connection instead."""

SILENT: Answer = (0, {})
"""The server takes the call and does not answer."""


class ScriptedHandler(BaseHTTPRequestHandler):
    """Gives the answers of its server's list, one after the other, and notes each request in `asked`.

    A path that ends with one of `fixed` always gets the same answer.
    """

    def do_POST(self) -> None:
        server: Any = self.server
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        status, headers, body = (*self._answer(), BODY)[:3]
        server.asked.append((self.headers["Idempotency-Key"], status))
        if status == SILENT[0]:
            server.stopping.wait()
            return
        if status is None:
            # To the client, the job may have been accepted, but the answer was lost.
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.do_POST()

    def do_DELETE(self) -> None:
        self.do_POST()

    def _answer(self) -> Answer:
        server: Any = self.server
        path = self.path.partition("?")[0]
        for ending, answer in server.fixed.items():
            if path.endswith(ending):
                found: Answer = answer
                return found
        popped: Answer = server.answers.pop(0)
        return popped

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def scripted_server(*answers: Answer, fixed: Mapping[str, Answer] | None = None) -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), ScriptedHandler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        stopping = threading.Event()
        vars(server).update(answers=list(answers), fixed=fixed or {}, asked=[], url=url, stopping=stopping)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        stopping.set()
        server.shutdown()
        thread.join()
