"""A client of ComfyUI's API: it fills in a workflow, queues it, waits for it, and fetches its picture."""

from __future__ import annotations

import base64
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar
from urllib.parse import quote, urlencode

import cv2
import numpy as np
import xxhash
from pydantic import Field

from augment.artifacts import Alpha, Image
from augment.errors import CorruptEntry, ItemFailed, RecipeError, UnavailableError
from augment.imaging.fit import stretch
from augment.models.calling import NoServer, with_retries
from augment.models.comfyui_replies import Pictured, failure_of, invalid, options_of, pictures_of
from augment.models.comfyui_workflow import Binding, Fields, Workflow, bind, parse
from augment.models.http import MEGABYTE, Reply, Server, check_address
from augment.models.pictures import decode_bounded
from augment.models.weights import PROBE_SECONDS, read_text

AUTH = "AUGMENT_COMFYUI_AUTH"

_MULTIPLE = 16  # of pixels, which the latents of all its models take
_SEED_BITS = 0xFFFFFFFF  # some nodes take no larger seeds
_MOST_PIXELS = 8192 * 4096  # of a picture that it sends
_LARGEST_PICTURE = 96 * MEGABYTE
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 1.0  # seconds between two looks at a job; they grow from the one to the other
_MOST_STRETCH = 1.03  # between the aspects of a picture and of what was painted in it: rounding of its sides
_BOUNDARY = "augment-5f0e6c1b8d2a4937"


@dataclass(frozen=True)
class ComfyUiModel:
    """The settings that every role of a ComfyUI has.

    If it is behind a login, that is read from AUGMENT_COMFYUI_AUTH ("user:password", or a token that is sent as
    "Bearer") and kept nowhere else. Pictures are uploaded to its temporary folder. A workflow that ends in PreviewImage
    instead of SaveImage leaves nothing in its output folder either.

    - `workflow`: the path of a workflow that was exported for the API (File > Export (API)). What is in the file
      decides, too: if it changes, the pictures are made again.
    - `fields`: which of its inputs are filled in; see `Fields`.
    - `size`: side in pixels of a square of the area to work at, in the image's own aspect; None is the area of the
      workflow's own width and height.
    - `base_url`: the server's address.
    - `timeout`: seconds for one picture, with its wait in the server's queue.
    - `retries`: how often a request is sent again after a fault of the server or the connection, with growing pauses.
    - `concurrency`: pictures queued at once. The server makes one after the other.
    """

    execution_only: ClassVar[frozenset[str]] = frozenset({"base_url", "timeout", "retries", "concurrency"})
    batch_size: ClassVar[int] = 16  # enough to keep its queue filled
    table: ClassVar[str]  # where its settings are in a recipe, for messages
    needs: ClassVar[tuple[str, ...]]  # the fields without which the role cannot be played; see `bind`

    workflow: str = field(kw_only=True)
    fields: Fields = field(default_factory=Fields)
    size: Annotated[int, Field(ge=64)] | None = None
    base_url: str = "http://127.0.0.1:8188"
    timeout: Annotated[float, Field(gt=0)] = 600.0
    retries: Annotated[int, Field(ge=0)] = 3
    concurrency: Annotated[int, Field(ge=1)] = 2

    def __post_init__(self) -> None:
        check_address("base_url", self.base_url)

    def target(self) -> str:
        return self.base_url

    def files(self) -> dict[str, str]:
        """See `Stage.files`."""
        return {"workflow": self._workflow.text}

    def check(self) -> None:
        """Raise UnavailableError or RecipeError, with the way out, if the workflow cannot be filled in, if no ComfyUI
        answers, or if it lacks a node class, a model or another name of the workflow."""
        self._area()
        try:
            self._check_server()
            infos = {kind: self._info(kind) for kind in dict.fromkeys(map(self._workflow.kind, self._workflow.nodes))}
        except NoServer as error:
            raise UnavailableError(f"{error}; start ComfyUI or correct base_url") from error
        except ItemFailed as error:
            raise UnavailableError(str(error)) from error
        flow = self._workflow
        if missing := [flow.says(node) for node in flow.nodes if not infos[flow.kind(node)]]:
            raise UnavailableError(
                f"{self.base_url} has no such node class: {', '.join(missing)} of {self.workflow}; install the custom "
                "nodes that bring it, or update ComfyUI"
            )
        if not any(info.get("output_node") for info in infos.values()):
            raise RecipeError(f"{self.workflow}: it gives no picture: add a node SaveImage or PreviewImage")
        filled = {target for name in ("image", "mask") for target in self._binding[name]}
        for node in flow.nodes:
            for name, value in flow.inputs(node).items():
                options = options_of(infos[flow.kind(node)], name)
                if options is not None and (node, name) not in filled and not isinstance(value, list | dict):
                    self._check_option(node, name, value, options)

    def unload(self) -> None:
        """Close the connections and forget the workflow; the next request opens new ones."""
        server = self.__dict__.pop("_server", None)
        for name in ("_down", "_workflow", "_binding"):
            self.__dict__.pop(name, None)
        if server is not None:
            server.close()

    def picture(self, like: Image, image: Image | None = None, mask: Alpha | None = None, **values: Any) -> Image:
        """The picture that the workflow makes, `(H, W, 3)` uint8 RGB, of the size that it makes.

        It works at its own area in the aspect of `like`. `image` `(H, W, 3)` uint8 RGB and `mask` `(H, W)` uint8, 255
        where something is painted, are uploaded at that size; `values` are those of further fields. Raises ItemFailed.
        """
        height, width = self._working_size(like)
        given = values | {"height": height, "width": width}
        if values.get("seed") is not None:
            given["seed"] = values["seed"] & _SEED_BITS
        if image is not None and self._binding["image"]:
            small = stretch(image, height, width)
            hole = np.zeros((height, width), np.uint8) if mask is None else stretch(mask, height, width)
            given["image"] = self._upload(small, hole)
            if self._binding["mask"]:
                # White and transparent in the hole: whichever channel the node reads, it finds the mask.
                given["mask"] = self._upload(np.repeat(hole[..., None], 3, axis=2), hole)
        nodes = self._workflow.filled(self._binding.values(given))
        deadline = time.monotonic() + self.timeout
        job = self._queue(nodes)
        return self._fetch(self._wait(job, deadline))

    def painted(self, image: Image, mask: Alpha, **values: Any) -> Image:
        """The image as an inpainting workflow paints it, of the same shape; see `picture`."""
        made = self.picture(image, image, mask, **values)
        height, width = self._working_size(image)
        ratio = made.shape[1] / made.shape[0] * height / width
        if not 1 / _MOST_STRETCH < ratio < _MOST_STRETCH:
            raise ItemFailed(
                f"{self.workflow}: it gave a picture of {made.shape[1]}x{made.shape[0]} for one of {width}x{height}, "
                "so what is where is not certain: it has to keep the picture's aspect"
            )
        return stretch(made, *image.shape[:2])

    # The server

    def _check_server(self) -> None:
        reply = self._server.get("/system_stats", PROBE_SECONDS)
        self._raise_for_login(reply)
        try:
            is_comfy = reply.status == 200 and {"system", "devices"} <= dict(reply.json()).keys()
        except (ValueError, TypeError):
            is_comfy = False
        if not is_comfy:
            raise UnavailableError(
                f"{self.base_url}: what answers there is not a ComfyUI (HTTP {reply.status}: {reply.words}); correct "
                "base_url"
            )

    def _info(self, kind: str) -> Mapping[str, Any]:
        """What the server says about a node class; empty if it has none of that name."""
        reply = self._server.get(f"/object_info/{quote(kind, safe='')}", PROBE_SECONDS)
        try:
            found: Mapping[str, Any] = reply.json().get(kind, {}) if reply.status == 200 else {}
        except (ValueError, AttributeError) as error:
            raise UnavailableError(f"{self.base_url}: it does not say what its nodes are: {reply.words}") from error
        return found

    def _check_option(self, node: str, name: str, value: Any, options: Sequence[Any]) -> None:
        if value in options:
            return
        same = [one for one in options if _plain(one) == _plain(value)]
        known = ", ".join(map(str, options[:20])) + (f" and {len(options) - 20} more" if len(options) > 20 else "")
        way_out = f"it has {same[0]!r}" if same else f"it has: {known or 'none'}"
        raise UnavailableError(
            f"{self.base_url} has no {name} {value!r}, named by node {self._workflow.says(node)} of {self.workflow}; "
            f"{way_out}"
        )

    def _upload(self, image: Image, hole: Alpha) -> str:
        """Upload a picture whose alpha is 0 in the hole; its name, as a node that loads pictures takes it."""
        bgra = np.dstack([image[..., ::-1], 255 - hole])
        data = cv2.imencode(".png", bgra, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
        name = f"augment-{xxhash.xxh3_128_hexdigest(data)}.png"  # the same pixels have one file
        body = b"".join(_parts({"type": "temp", "overwrite": "true"}, name, data))
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        reply = self._ask("POST", "/upload/image", body, kind)
        try:
            stored = reply.json()
            folder = f"{stored['subfolder']}/" if stored.get("subfolder") else ""
            return f"{folder}{stored['name']} [{stored.get('type') or 'temp'}]"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ItemFailed(f"{self.base_url}: it did not take a picture: {reply.words}") from error

    def _queue(self, nodes: Mapping[str, Any]) -> str:
        """Queue a job; its id."""
        body = json.dumps({"prompt": nodes, "client_id": "augment"}).encode()
        reply = self._ask("POST", "/prompt", body, accept={200, 400})
        try:
            content = reply.json()
            job = content.get("prompt_id")
        except (ValueError, AttributeError) as error:
            raise ItemFailed(f"{self.base_url}: it did not queue the workflow: {reply.words}") from error
        if reply.status == 400 or content.get("node_errors") or not isinstance(job, str):
            raise invalid(content, f"{self.base_url} refuses {self.workflow}", reply.words)
        return job

    def _wait(self, job: str, deadline: float) -> Mapping[str, Any]:
        """What the server's history says of a job, once it has ended."""
        pause, is_lost = _FIRST_LOOK, False
        while True:
            reply = self._ask("GET", f"/history/{quote(job, safe='')}")
            try:
                entry = reply.json().get(job)
            except (ValueError, AttributeError) as error:
                raise ItemFailed(f"{self.base_url}: it does not say what became of a job: {reply.words}") from error
            if isinstance(entry, Mapping):
                return entry
            if is_lost:
                raise ItemFailed(f"{self.base_url}: the job was removed from its queue, or the server started again")
            left = deadline - time.monotonic()
            if left <= 0:
                self._drop(job)
                raise ItemFailed(
                    f"{self.base_url}: no picture in {self.timeout:g} s, with the wait in its queue; raise "
                    f"{self.table}.timeout"
                )
            is_lost = pause >= _LONGEST_LOOK and not self._is_queued(job)
            time.sleep(0 if is_lost else min(pause, left))
            pause = min(pause * 1.5, _LONGEST_LOOK)

    def _is_queued(self, job: str) -> bool:
        """Whether the job waits or runs; True if the server does not say."""
        try:
            queue = self._ask("GET", "/queue").json()
            return any(job in item for name in ("queue_running", "queue_pending") for item in queue[name])
        except (ItemFailed, ValueError, KeyError, TypeError):
            return True

    def _drop(self, job: str) -> None:
        """Take a job out of the queue; one that runs is left, because to interrupt it could hit somebody else's."""
        body = json.dumps({"delete": [job]}).encode()
        try:
            self._server.request("POST", f"{self._server.base_url}/queue", body, PROBE_SECONDS, MEGABYTE)
        except (ItemFailed, UnavailableError):
            return  # the reason why the item fails is another one

    def _fetch(self, entry: Mapping[str, Any]) -> Image:
        """The picture of a job that has ended."""
        if (failure := failure_of(entry, self.table)) is not None:
            raise ItemFailed(f"{self.base_url}: {failure}")
        found = self._chosen(pictures_of(entry))
        query = urlencode({"filename": found.name, "subfolder": found.folder, "type": found.type})
        reply = self._ask("GET", f"/view?{query}", limit=_LARGEST_PICTURE)
        try:
            return decode_bounded(reply.body, _MOST_PIXELS)
        except CorruptEntry as error:
            raise ItemFailed(f"{self.base_url}: {found.name} is {error}") from error

    def _chosen(self, pictures: Sequence[Pictured]) -> Pictured:
        """The one picture to take. Raises ItemFailed if there is none, or more than one."""
        if self.fields.output is not None:
            wanted = [one for one in pictures if one.node == self.fields.output]
        else:
            wanted = [one for one in pictures if one.type == "output"] or list(pictures)
        if len(wanted) == 1:
            return wanted[0]
        nodes = ", ".join(dict.fromkeys(one.node for one in wanted))
        if len({one.node for one in wanted}) > 1:
            raise ItemFailed(f"{self.workflow}: several nodes give a picture: {nodes}; set {self.table}.fields.output")
        if wanted:
            raise ItemFailed(f"{self.workflow}: node {nodes} gives {len(wanted)} pictures, and one is needed")
        raise ItemFailed(f"{self.workflow}: it gave no picture; it has to end in a node SaveImage or PreviewImage")

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "application/json",
        accept: frozenset[int] | set[int] = frozenset({200}),
        limit: int = 8 * MEGABYTE,
    ) -> Reply:
        """The reply to a request, sent again after faults that pass. Raises ItemFailed."""

        def ask() -> Reply:
            reply = self._server.request(method, f"{self._server.base_url}{path}", body, self.timeout, limit, kind)
            self._raise_for_login(reply)
            if reply.status not in accept:
                raise self._server.fault(reply)
            return reply

        return with_retries(ask, self.retries, self._down)

    def _raise_for_login(self, reply: Reply) -> None:
        if reply.status in (401, 403):
            said = f"{self.base_url} refuses the login (HTTP {reply.status}: {reply.words})"
            raise UnavailableError(f'{said}: set {AUTH} to "user:password" or to a token')

    # The workflow

    def _working_size(self, image: Image) -> tuple[int, int]:
        """Height and width to work at: the image's aspect, the area of the workflow or of `size`²."""
        height, width = image.shape[:2]
        area = self._area()
        ideal = np.sqrt(area * np.array([height / width, width / height]))
        rows, columns = (np.maximum(1, np.round(ideal / _MULTIPLE)) * _MULTIPLE).astype(int).tolist()
        return rows, columns

    def _area(self) -> float:
        """The pixels to work at. Raises RecipeError if neither the workflow nor `size` says how many."""
        flow = self._workflow
        own = [flow.inputs(node)[name] for field in ("width", "height") for node, name in self._binding[field][:1]]
        if self.size is not None:
            return float(self.size) ** 2
        if len(own) == 2 and all(isinstance(side, int) and side > 0 for side in own):
            return float(own[0] * own[1])
        raise RecipeError(
            f"{self.workflow}: it has no width and height of its own: set {self.table}.size to the side in pixels that "
            "its model works at, such as 512 for Stable Diffusion 1.5 or 1024 for SDXL"
        )

    @cached_property
    def _workflow(self) -> Workflow:
        return parse(read_text(self.workflow), self.workflow)

    @cached_property
    def _binding(self) -> Binding:
        return bind(self._workflow, self.fields, self.needs, self.table)

    @cached_property
    def _server(self) -> Server:
        login = os.environ.get(AUTH, "").strip()
        if not login.isprintable():
            raise UnavailableError(f"{AUTH}: it holds a character that no login has, such as a line break inside")
        encoded = base64.b64encode(login.encode()).decode()
        how = f"Basic {encoded}" if ":" in login else f"Bearer {login}"
        return Server(self.base_url, {"Authorization": how} if login else {}, self.concurrency)

    @cached_property
    def _down(self) -> threading.Event:
        """Set while nothing answers there; see `with_retries`."""
        return threading.Event()


def _parts(values: Mapping[str, str], name: str, data: bytes) -> Iterator[bytes]:
    """The parts of a multipart form with a file called `image`."""
    for key, value in values.items():
        yield f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
    yield f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'.encode()
    yield b"Content-Type: image/png\r\n\r\n" + data + f"\r\n--{_BOUNDARY}--\r\n".encode()


def _plain(name: object) -> str:
    return re.sub(r"[\W_]+", "", str(name).lower())
