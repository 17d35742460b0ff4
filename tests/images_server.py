"""A real HTTP server that speaks /v1/images/generations as OpenAI, LocalAI and stable-diffusion.cpp do."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

from augment.artifacts import encode_image


class ImagesServer:
    """`with ImagesServer() as server`: listens at `server.url` on an ephemeral port of 127.0.0.1.

    models: what it lists; None: it has no list. sizes: those that it takes; None: any. key: the one that it wants.
    refuses: parameters that it does not know. blocked: a word that no prompt may hold. as_url: pictures by an address,
    with that text in front; "" is its own. makes: the size (width, height) of every picture; None: as asked.
    errors: (status, JSON) to reply with, used up before any picture. body: sent in place of a reply.
    requests: the bodies that came, parsed. fetched: the paths of the pictures that were asked for.
    """

    def __init__(self) -> None:
        self.models: list[str] | None = ["sd-cpp-local"]
        self.sizes: tuple[str, ...] | None = None
        self.key: str | None = None
        self.refuses: set[str] = set()
        self.blocked = "forbidden"
        self.as_url: str | None = None
        self.makes: tuple[int, int] | None = None
        self.errors: list[tuple[int, Any]] = []
        self.body: bytes | None = None
        self.requests: list[dict[str, Any]] = []
        self.fetched: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/generated-images/"):
                    server.fetched.append(self.path)
                    self.send(200, encode_image(picture("by address", 96, 64), "png"), "image/png")
                elif self.path != "/v1/models" or server.models is None:
                    self.send(404, b"404 page not found", "text/plain")
                elif not self.is_allowed():
                    self.fail(401, "Incorrect API key provided", "invalid_api_key")
                else:
                    self.json(200, {"data": [{"id": name, "object": "model"} for name in server.models]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path != "/v1/images/generations":
                    self.send(404, b"404 page not found", "text/plain")
                elif not self.is_allowed():
                    self.fail(401, f"Incorrect API key provided: {self.headers['Authorization']}", "invalid_api_key")
                elif "prompt" not in body:
                    self.fail(400, "Missing required parameter: 'prompt'.", "missing_required_parameter", "prompt")
                else:
                    server.requests.append(body)
                    self.make(body)

            def make(self, body: dict[str, Any]) -> None:
                unknown = sorted(server.refuses.intersection(body))
                if server.errors:
                    self.json(*server.errors.pop(0))
                elif unknown:
                    self.fail(400, f"Unknown parameter: '{unknown[0]}'.", "unknown_parameter", unknown[0])
                elif server.sizes is not None and body["size"] not in server.sizes:
                    values = ", ".join(f"'{size}'" for size in server.sizes)
                    words = f"Invalid value: '{body['size']}'. Supported values are: {values}."
                    self.fail(400, words, "invalid_value", "size")
                elif server.blocked in body["prompt"]:
                    words = "Your request was rejected by the safety system. safety_violations=[violence]."
                    self.fail(400, words, "moderation_blocked")
                elif server.body is not None:
                    self.send(200, server.body, "application/json")
                else:
                    width, height = server.makes or map(int, body["size"].split("x"))
                    data = encode_image(picture(body["prompt"], width, height), "png")
                    item = {"b64_json": base64.b64encode(data).decode()}
                    if server.as_url is not None:
                        own = server.url.removesuffix("/v1")
                        item = {"url": f"{server.as_url or own}/generated-images/1.png"}
                    self.json(200, {"created": 0, "data": [item]})

            def is_allowed(self) -> bool:
                return server.key is None or self.headers["Authorization"] == f"Bearer {server.key}"

            def fail(self, status: int, message: str, code: str, param: str | None = None) -> None:
                kind = "invalid_request_error"
                self.json(status, {"error": {"message": message, "type": kind, "param": param, "code": code}})

            def json(self, status: int, content: Any) -> None:
                self.send(status, json.dumps(content).encode(), "application/json")

            def send(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ImagesServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def picture(prompt: str, width: int, height: int) -> np.ndarray:
    """Smooth noise that the prompt decides."""
    rng = np.random.default_rng(list(prompt.encode()))
    small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
