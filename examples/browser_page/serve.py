"""Serves the page, and passes /v1/ on to Tokenrelay. It stands for the reverse proxy that you have already.

    python examples/browser_page/serve.py [PORT]

A page may only read the API of its own origin, so the page and the API need the same host name and port. With
API keys, your proxy adds the key after it has checked who asks, so that the key never reaches the browser.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

PAGE = Path(__file__).with_name("index.html")
TOKENRELAY_URL = os.environ.get("TOKENRELAY_URL", "http://127.0.0.1:8000")
PASSED_ON = ("Content-Type", "Idempotency-Key", "Last-Event-ID")


class Proxy(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/":
            self.answer(200, "text/html; charset=utf-8", [PAGE.read_bytes()])
        elif self.path.startswith("/v1/"):
            self.pass_on()
        else:
            self.answer(404, "text/plain", [])

    def do_POST(self):
        if self.path.startswith("/v1/"):
            self.pass_on()
        else:
            self.answer(404, "text/plain", [])

    def pass_on(self):
        headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # The server sends something every 15 seconds, so the connection is dead after 45 seconds of silence.
        call = httpx.stream(
            self.command, TOKENRELAY_URL + self.path, headers=headers, content=body, timeout=45
        )
        with call as answer:
            # iter_raw passes each event on as it comes.
            self.answer(answer.status_code, answer.headers.get("Content-Type", ""), answer.iter_raw())

    def answer(self, status, content_type, parts):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.end_headers()  # HTTP/1.0: the answer ends with the connection.
        for part in parts:
            self.wfile.write(part)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 5002
    print(f"http://127.0.0.1:{port}", flush=True)
    ThreadingHTTPServer(("127.0.0.1", port), Proxy).serve_forever()
