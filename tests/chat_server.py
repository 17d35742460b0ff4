"""A real HTTP server that speaks /v1/chat/completions, and misbehaves on request."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatServer:
    """`with ChatServer() as server`: listens at `server.url` on an ephemeral port of 127.0.0.1.

    answer, answers: what it says; `answers` are used up first, in the order in which questions arrive.
    statuses: HTTP statuses to reply with, used up before any answer; with `message` and `param` as OpenAI puts them.
    body: sent in place of a completion. delay: seconds before each reply.
    requests, keys: the bodies that came, parsed, and their Authorization headers. most_at_once: requests in flight.
    """

    def __init__(self) -> None:
        self.answer = "A wide beach with wet sand and low waves."
        self.answers: list[str] = []
        self.statuses: list[int] = []
        self.message, self.param = "broken on request", None
        self.body: bytes | None = None
        self.delay = 0.0
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, b'{"object": "list", "data": []}')

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                    server.requests.append(body)
                    server.keys.append(self.headers["Authorization"])
                    status = server.statuses.pop(0) if server.statuses else 200
                    answer = server.answers.pop(0) if status == 200 and server.answers else server.answer
                time.sleep(server.delay)
                with server._lock:
                    server._at_once -= 1
                self.reply(status, server.completion(answer) if status == 200 else server.error())

            def reply(self, status: int, body: bytes) -> None:
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except ConnectionError:
                    pass  # the client did not wait for it

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def completion(self, answer: str) -> bytes:
        if self.body is not None:
            return self.body
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}
        whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "test", "choices": [choice]}
        return json.dumps(whole).encode()

    def error(self) -> bytes:
        return json.dumps(
            {"error": {"message": self.message, "param": self.param, "type": "test", "code": None}}
        ).encode()

    def __enter__(self) -> ChatServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
