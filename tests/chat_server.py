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
    models: what it lists; None: any model is listed. key: the one that it wants. refuses: maps a name in a request, or
    "system", to the (status, JSON) that it is refused with. choice: laid over a completion's choice.
    requests, keys: the bodies that came, parsed, and their Authorization headers. most_at_once: requests in flight.
    """

    def __init__(self) -> None:
        self.answer = "A wide beach with wet sand and low waves."
        self.answers: list[str] = []
        self.statuses: list[int] = []
        self.message, self.param = "broken on request", None
        self.body: bytes | None = None
        self.models: list[str] | None = None
        self.key: str | None = None
        self.lists_to_anybody = False
        self.refuses: dict[str, tuple[int, Any]] = {}
        self.thinks_for = 0  # tokens that are thoughts, before an answer
        self.choice: dict[str, Any] = {}
        self.delay = 0.0
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/v1/models":
                    self.reply(404, b"404 page not found")
                elif not server.lists_to_anybody and not self.is_allowed():
                    self.reply(401, server.error("Incorrect API key provided"))
                else:
                    names = ["words", "pictures", "m"] if server.models is None else server.models
                    data = [{"id": name, "object": "model", "owned_by": "test"} for name in names]
                    self.reply(200, json.dumps({"object": "list", "data": data}).encode())

            def is_allowed(self) -> bool:
                return server.key is None or self.headers["Authorization"] == f"Bearer {server.key}"

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
                if self.path != "/v1/chat/completions":
                    self.reply(404, b"404 page not found")
                elif not self.is_allowed():
                    self.reply(401, server.error(f"Incorrect API key provided: {self.headers['Authorization']}"))
                elif server.models is not None and body["model"] not in server.models:
                    self.reply(404, server.error(f"model {body['model']!r} not found"))
                elif refused := server.refusal(body):
                    self.reply(refused[0], json.dumps(refused[1]).encode())
                elif status == 200 and body.get("max_tokens", 10**6) <= server.thinks_for:
                    self.reply(200, server.completion("", "length"))
                else:
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

    def refusal(self, body: dict[str, Any]) -> tuple[int, Any] | None:
        has_system = any(message["role"] == "system" for message in body["messages"])
        names = [*body, *(["system"] if has_system else [])]
        return next((self.refuses[name] for name in names if name in self.refuses), None)

    def completion(self, answer: str, finish_reason: str = "stop") -> bytes:
        if self.body is not None:
            return self.body
        choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": answer}}
        choice |= self.choice
        whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "test", "choices": [choice]}
        return json.dumps(whole).encode()

    def error(self, message: str | None = None) -> bytes:
        whole = {"message": message or self.message, "param": self.param, "type": "test", "code": None}
        return json.dumps({"error": whole}).encode()

    def __enter__(self) -> ChatServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
