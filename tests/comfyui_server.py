"""A real HTTP server that speaks the API of ComfyUI and runs small workflows, and misbehaves on request."""

from __future__ import annotations

import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import cv2
import numpy as np

_SAMPLING = {
    "seed": ["INT", {"min": 0, "max": 2**64 - 1}],
    "sampler_name": [["euler", "dpmpp_2m"], {}],
    "scheduler": ["COMBO", {"options": ["normal", "karras"], "multiselect": False}],  # as newer nodes have it
}
_PICTURE = {"image": [["example.png"], {"image_upload": True}]}


class ComfyUiServer:
    """`with ComfyUiServer() as server`: listens at `server.url` on an ephemeral port of 127.0.0.1.

    checkpoints: what it has. login: the header Authorization that it wants. delay: seconds for each job. stuck: nothing
    is ever made. fails: the messages that a job ends with instead of a picture. loses: jobs vanish from the queue.
    scale: of the pictures that it makes. body: sent instead of a picture. statuses: HTTP statuses to reply to /prompt
    with, used up first. jobs: the workflows that came. files: uploaded, by type and name. dropped: jobs taken out.
    """

    def __init__(self) -> None:
        self.checkpoints = ["v1-5.safetensors", "sdxl/base.safetensors"]
        self.login: str | None = None
        self.delay = 0.0
        self.stuck = self.loses = False
        self.fails: list[Any] = []
        self.scale = (1.0, 1.0)
        self.body: bytes | None = None
        self.statuses: list[int] = []
        self.jobs: list[dict[str, Any]] = []
        self.files: dict[tuple[str, str], bytes] = {}
        self.dropped: list[str] = []
        self._pending: list[str] = []
        self._history: dict[str, Any] = {}
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                name = unquote(parts.path)
                if server.login and self.headers["Authorization"] != server.login:
                    self.send(401, b"<html>401 Authorization Required</html>", "text/html")
                elif name == "/system_stats":
                    self.json(200, {"system": {"comfyui_version": "0.3.60"}, "devices": [{"name": "cpu"}]})
                elif name.startswith("/object_info/"):
                    kind = name.removeprefix("/object_info/")
                    classes = server.classes()
                    self.json(200, {kind: classes[kind]} if kind in classes else {})
                elif name.startswith("/history/"):
                    job = name.removeprefix("/history/")
                    self.json(200, {job: server._history[job]} if job in server._history else {})
                elif name == "/queue":
                    pending = [[n, job, {}, {}, []] for n, job in enumerate(server._pending)]
                    self.json(200, {"queue_running": [], "queue_pending": pending})
                elif name == "/view":
                    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                    data = server.files.get((query["type"], query["filename"]))
                    if data is None:
                        self.send(404, b"", "text/plain")
                    else:
                        self.send(200, data if server.body is None else server.body, "image/png")
                else:
                    self.send(404, b"404: Not Found", "text/plain")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if server.login and self.headers["Authorization"] != server.login:
                    self.send(401, b"<html>401 Authorization Required</html>", "text/html")
                elif self.path == "/upload/image":
                    fields = form(body, self.headers["Content-Type"])
                    data, name = fields["image"]
                    kind = fields["type"][0].decode()
                    server.files[kind, name] = data
                    self.json(200, {"name": name, "subfolder": "", "type": kind})
                elif self.path == "/prompt":
                    if server.statuses:
                        self.json(server.statuses.pop(0), {"error": "broken on request"})
                    else:
                        self.json(*server.queue(json.loads(body)["prompt"]))
                elif self.path == "/queue":
                    server.dropped += json.loads(body)["delete"]
                    self.send(200, b"", "text/plain")
                else:
                    self.send(404, b"404: Not Found", "text/plain")

            def json(self, status: int, content: Any) -> None:
                self.send(status, json.dumps(content).encode(), "application/json; charset=utf-8")

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
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> ComfyUiServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def classes(self) -> dict[str, Any]:
        """What /object_info says of the classes that it has."""
        inputs = {
            "KSampler": _SAMPLING,
            "CheckpointLoaderSimple": {"ckpt_name": [self.checkpoints, {}]},
            "CLIPTextEncode": {"text": ["STRING", {"multiline": True}], "clip": ["CLIP"]},
            "EmptyLatentImage": {"width": ["INT", {"min": 16}], "height": ["INT", {"min": 16}]},
            "LoadImage": _PICTURE,
            "LoadImageMask": _PICTURE | {"channel": [["alpha", "red", "green", "blue"]]},
        }
        plain = ("VAEEncode", "VAEEncodeForInpaint", "VAEDecode", "GrowMask", "SaveImage", "PreviewImage")
        return {
            kind: {"input": {"required": inputs.get(kind, {})}, "output_node": kind in ("SaveImage", "PreviewImage")}
            for kind in (*inputs, *plain)
        }

    def queue(self, prompt: dict[str, Any]) -> tuple[int, Any]:
        """Status and reply for a workflow; it is run if it is valid."""
        classes = self.classes()
        for node, one in prompt.items():
            if one["class_type"] not in classes:
                message = f"Node '{one['class_type']}' not found. The custom node may not be installed."
                error = {"type": "missing_node_type", "message": message, "details": f"Node ID '#{node}'"}
                return 400, {"error": error | {"extra_info": {}}, "node_errors": {}}
        errors = {
            node: {"errors": [error], "dependent_outputs": [], "class_type": one["class_type"]}
            for node, one in prompt.items()
            for error in self._errors(one, classes[one["class_type"]]["input"]["required"])
        }
        if errors:
            message = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
            return 400, {"error": message | {"details": "", "extra_info": {}}, "node_errors": errors}
        job = str(uuid.uuid4())
        with self._lock:
            self.jobs.append(prompt)
            if not self.loses:
                self._pending.append(job)
        if not self.stuck and not self.loses:
            threading.Thread(target=self._run, args=(job, prompt), daemon=True).start()
        return 200, {"prompt_id": job, "number": len(self.jobs), "node_errors": {}}

    def _errors(self, node: dict[str, Any], known: dict[str, Any]) -> list[dict[str, str]]:
        found = []
        for name, (kind, *extra) in known.items():
            value = node["inputs"].get(name)
            options = kind if isinstance(kind, list) else extra[0].get("options") if kind == "COMBO" else None
            if isinstance(value, list):
                continue
            if value is None:
                found.append(
                    {"type": "required_input_missing", "message": "Required input is missing", "details": name}
                )
            elif "image_upload" in (extra[0] if extra else {}):
                if self._file(value) is None:
                    details = f"{name} - Invalid image file: {value}"
                    message = "Custom validation failed for node"
                    found.append({"type": "custom_validation_failed", "message": message, "details": details})
            elif options is not None and value not in options:
                details = f"{name}: '{value}' not in {options}"
                found.append({"type": "value_not_in_list", "message": "Value not in list", "details": details})
        return found

    def _file(self, name: str) -> bytes | None:
        plain, kind = (name[:-7], "temp") if name.endswith(" [temp]") else (name, "input")
        return self.files.get((kind, plain))

    def _run(self, job: str, prompt: dict[str, Any]) -> None:
        time.sleep(self.delay)
        messages: list[Any] = [["execution_start", {"prompt_id": job}]]
        outputs: dict[str, Any] = {}
        if self.fails:
            messages += self.fails
        else:
            for node, one in prompt.items():
                if one["class_type"] in ("SaveImage", "PreviewImage"):
                    kind, name = ("output" if one["class_type"] == "SaveImage" else "temp"), f"{job}_{node}_.png"
                    picture = self._value(prompt, one["inputs"]["images"])[0]
                    height, width = (round(side * by) for side, by in zip(picture.shape[:2], self.scale, strict=True))
                    picture = cv2.resize(picture, (width, height))
                    self.files[kind, name] = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
                    outputs[node] = {"images": [{"filename": name, "subfolder": "", "type": kind}]}
            messages.append(["execution_success", {"prompt_id": job}])
        status = {"status_str": "error" if self.fails else "success", "completed": not self.fails}
        with self._lock:
            # Never in neither list, as in ComfyUI.
            self._history[job] = {"prompt": [0, job, prompt, {}, []], "outputs": outputs}
            self._history[job]["status"] = status | {"messages": messages}
            self._pending.remove(job)

    def _value(self, prompt: dict[str, Any], link: Any) -> tuple[Any, Any]:
        """What a node gives: a picture and a mask (0 to 1), or a text. Latents are pictures here."""
        node = prompt[link[0]]
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "CLIPTextEncode":
            return inputs["text"], None
        if kind == "EmptyLatentImage":
            return np.zeros((inputs["height"], inputs["width"], 3), np.uint8), None
        if kind in ("LoadImage", "LoadImageMask"):
            bgra = cv2.imdecode(np.frombuffer(self._file(inputs["image"]), np.uint8), cv2.IMREAD_UNCHANGED)
            mask = 1 - bgra[..., 3] / 255
            if kind == "LoadImageMask" and inputs["channel"] != "alpha":
                mask = bgra[..., "bgr".index(inputs["channel"][0])] / 255
            return bgra[..., 2::-1], mask
        if kind in ("VAEEncode", "VAEDecode"):
            return self._value(prompt, inputs["pixels" if kind == "VAEEncode" else "samples"])
        if kind == "GrowMask":
            return self._value(prompt, inputs["mask"])
        if kind == "VAEEncodeForInpaint":
            return self._value(prompt, inputs["pixels"])[0], self._value(prompt, inputs["mask"])[1]
        assert kind == "KSampler", kind
        picture, mask = self._value(prompt, inputs["latent_image"])
        text = self._value(prompt, inputs["positive"])[0]
        rng = np.random.default_rng([inputs["seed"], len(text)])
        if mask is None:
            noise = rng.normal(128, 60, picture.shape)
            return cv2.blur((noise / 2 + picture / 2).clip(0, 255).astype(np.uint8), (3, 3)), None
        # A model's decoder leaves no pixel as it was.
        painted = np.where(mask[..., None] > 0.5, rng.integers(0, 256, 3), np.minimum(picture.astype(int) + 9, 255))
        return painted.astype(np.uint8), None


def form(body: bytes, kind: str) -> dict[str, tuple[bytes, str]]:
    """The fields of a multipart form: value and file name of each."""
    boundary = kind.partition("boundary=")[2].encode()
    found = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, value = part.strip(b"\r\n").partition(b"\r\n\r\n")
        words = dict(word.partition("=")[::2] for word in head.decode().split("\r\n")[0].split("; ")[1:])
        found[words["name"].strip('"')] = value, words.get("filename", "").strip('"')
    return found


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def text_to_image() -> dict[str, Any]:
    """The workflow that ComfyUI opens with, as it exports it for the API."""
    return {
        "3": node(
            "KSampler",
            **{"seed": 8566257, "steps": 20, "cfg": 8, "sampler_name": "euler", "scheduler": "normal", "denoise": 1},
            **{"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]},
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="v1-5.safetensors"),
        "5": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "6": node("CLIPTextEncode", text="a bottle", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="watermark", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }


def inpainting(separate: bool = False) -> dict[str, Any]:
    """ComfyUI's inpainting example: the mask is the picture's alpha, or a file of its own."""
    nodes = text_to_image()
    del nodes["5"]
    nodes["3"]["inputs"]["latent_image"] = ["26", 0]
    nodes["20"] = node("LoadImage", image="example.png")
    nodes["25"] = node("GrowMask", mask=["21", 0] if separate else ["20", 1], expand=6)
    nodes["26"] = node("VAEEncodeForInpaint", pixels=["20", 0], vae=["4", 2], mask=["25", 0], grow_mask_by=6)
    if separate:
        nodes["21"] = node("LoadImageMask", image="mask.png", channel="red")
    return nodes
