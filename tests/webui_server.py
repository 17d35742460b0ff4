"""A real HTTP server that speaks the API of Stable Diffusion WebUI and of OpenAI's chats, and misbehaves on request."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

from augment.artifacts import decode_image, encode_image


class WebUiServer:
    """`with WebUiServer() as server`: listens at `server.url` on an ephemeral port of 127.0.0.1.

    checkpoints, samplers, schedulers: what it has, the last two None for versions that list none.
    auth: "user:password" that it wants. answer: what the language model says.
    statuses: HTTP statuses to reply with, used up before any image. body: sent in place of a reply. cut: send half.
    delay: seconds before each image. dies_after: images after which it is gone, its port closed; `start` revives it.
    requests: (path, parsed body) of what came. most_at_once: requests in flight.
    """

    def __init__(self) -> None:
        self.checkpoints = ["v1-5-pruned", "sd-v1-5-inpainting"]
        self.known: list[dict[str, str]] = []  # checkpoints, as the server lists them
        self.upscalers = ["None", "Lanczos", "R-ESRGAN 4x+"]
        self.samplers: list[str] | None = ["DPM++ 2M", "Euler a", "Euler"]
        self.schedulers: list[str] | None = ["Automatic", "Karras"]
        self.auth: str | None = None
        self.answer = "{}"
        self.statuses: list[int] = []
        self.body: bytes | None = None
        self.cut = False
        self.delay = 0.0
        self.dies_after: int | None = None
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.made = 0
        self.most_at_once = 0
        self._at_once = 0
        self._port = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not self.allowed():
                    self.reply(401, {"detail": "Incorrect password"})
                elif self.path == "/sdapi/v1/sd-models":
                    known = server.known or [
                        {"title": f"{name}.ckpt [cc6cb27103]", "model_name": name, "hash": "cc6cb27103"}
                        for name in server.checkpoints
                    ]
                    self.reply(200, known)
                elif self.path == "/sdapi/v1/samplers" and server.samplers is not None:
                    self.reply(200, [{"name": name, "aliases": [], "options": {}} for name in server.samplers])
                elif self.path == "/sdapi/v1/schedulers" and server.schedulers is not None:
                    self.reply(200, [{"name": name.lower(), "label": name} for name in server.schedulers])
                elif self.path == "/sdapi/v1/upscalers":
                    self.reply(200, [{"name": name} for name in server.upscalers])
                elif self.path == "/sdapi/v1/latent-upscale-modes":
                    self.reply(200, [{"name": "Latent"}, {"name": "Latent (antialiased)"}])
                elif self.path == "/v1/models":
                    self.reply(200, {"object": "list", "data": [{"id": name} for name in ("words", "m", "llm")]})
                else:
                    self.reply(404, {"detail": "Not Found"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.requests.append((self.path, body))
                    if server._gone():
                        self.close_connection = True
                        return
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                    status = server.statuses.pop(0) if server.statuses else 200
                time.sleep(server.delay)
                with server._lock:
                    server._at_once -= 1
                if not self.allowed():
                    self.reply(401, {"detail": "Incorrect password"})
                elif self.path == "/v1/chat/completions":
                    message = {"role": "assistant", "content": server.answer}
                    choice = {"index": 0, "finish_reason": "stop", "message": message}
                    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
                    self.reply(200, whole)
                elif status != 200:
                    self.reply(status, {"error": "Broken", "errors": "broken on request"})
                elif self.path == "/sdapi/v1/txt2img":
                    self.reply(200, reply(txt2img(body)))
                elif self.path == "/sdapi/v1/img2img":
                    self.reply(200, reply(img2img(body)))
                else:
                    self.reply(404, {"detail": "Not Found"})

            def allowed(self) -> bool:
                wanted = server.auth and "Basic " + base64.b64encode(server.auth.encode()).decode()
                return not wanted or self.headers["Authorization"] == wanted or self.path.startswith("/v1/")

            def reply(self, status: int, content: Any) -> None:
                body = json.dumps(content).encode() if server.body is None or status != 200 else server.body
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body[: len(body) // 2] if server.cut else body)
                except ConnectionError:
                    pass  # the client did not wait for it

            def log_message(self, *_: Any) -> None:
                pass

        self._handler = Handler
        self.start()

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def of(self, endpoint: str) -> list[dict[str, Any]]:
        """The bodies that came to an endpoint."""
        return [body for path, body in self.requests if path == f"/sdapi/v1/{endpoint}"]

    def _gone(self) -> bool:
        """Whether it dies rather than make one more image."""
        if self.dies_after is None:
            return False
        self.made += 1
        if self.made == self.dies_after + 1:
            threading.Thread(target=self.stop, daemon=True).start()
        return self.made > self.dies_after

    def __enter__(self) -> WebUiServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.stop()


def reply(image: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(encode_image(image, "png")).decode()
    return {"images": [data], "parameters": {}, "info": "{}"}


def txt2img(body: dict[str, Any]) -> np.ndarray:
    """Smooth noise that the seed decides, at the size asked for."""
    scale = body.get("hr_scale", 1) if body.get("enable_hr") else 1
    shape = (int(body["height"] * scale), int(body["width"] * scale), 3)
    noise = np.random.default_rng(body["seed"]).normal(128, 60, shape)
    return cv2.blur(noise.clip(0, 255).astype(np.uint8), (3, 3))


def img2img(body: dict[str, Any]) -> np.ndarray:
    """The image with a colour that the seed decides in the mask, and everything else a little brighter: a model's
    decoder leaves no pixel as it was."""
    (image,) = (decode_image(base64.b64decode(data)) for data in body["init_images"])
    mask = decode_image(base64.b64decode(body["mask"]))
    size = (body["width"], body["height"])
    image, mask = cv2.resize(image, size), cv2.resize(mask, size)
    color = np.random.default_rng(body["seed"]).integers(0, 256, 3)
    return np.where(mask > 127, color, np.minimum(image.astype(int) + 9, 255)).astype(np.uint8)
