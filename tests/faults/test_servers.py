"""Every backend that asks a server, against servers that are none, or hostile: the item fails, or the work ends, in one
sentence. A new backend adds a line to BACKENDS, a new fault one to SERVERS."""

import base64
import gzip
import json
import resource
import socket
import struct
import threading
import time

import numpy as np
import pytest

pytest.importorskip("httpcore", reason="servers are asked with the extra models")

import augment.models.calling
from augment.artifacts import Prompt
from augment.errors import ItemFailed, UnavailableError
from augment.models.http import MEGABYTE
from augment.models.openai_server import KEY
from augment.models.webui import AUTH
from augment.stages.caption.openai import OpenAi as Captioner
from augment.stages.enrich.chat.openai import OpenAi as Chat
from augment.stages.enrich.inpainters.webui import WebUi as Inpainter
from augment.stages.generate.openai import OpenAi as Images
from augment.stages.generate.webui import WebUi as Generator
from augment.stages.refine.openai import OpenAi as Refiner
from tests.models.test_http import png_header
from tests.raw_server import RawServer, reply

pytestmark = pytest.mark.faults

PLATE, MASK, PROMPT = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8), Prompt("a beach")
SECRET = "sesame-0123456789"


def _chat(backend, **given):
    return lambda url: backend(model="m", base_url=f"{url}/v1", retries=0, timeout=0.3)(**given)


def _picture(backend, **given):
    return lambda url: backend(base_url=url, retries=0, timeout=0.3, size=64)(**given, prompts=[PROMPT], seeds=[1])


# Each asks the server at a URL for one item, with a third of a second's patience; what a backend returns.
BACKENDS = {
    "caption.openai": _chat(Captioner, plates=[PLATE]),
    "refine.openai": _chat(Refiner, captions=["a meadow"], groups=["cow"], variants=[0], seeds=[1]),
    "chat.openai": _chat(Chat, chats=[[{"role": "user", "content": "A beach?"}]], seeds=[1]),
    "generate.openai": _chat(Images, prompts=[PROMPT], plates=[PLATE]),
    "generate.webui": _picture(Generator, plates=[PLATE]),
    "inpainter.webui": _picture(Inpainter, images=[PLATE], masks=[MASK]),
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
PACKED = gzip.compress(bytes(200 * MEGABYTE), 9)


def _resets(_, send):
    connection = send.__self__
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _drips(_, send):
    send(HEAD + b"Content-Length: 100000\r\n\r\n")
    for _ in range(80):
        send(b" ")
        time.sleep(0.02)


def _never_ends(_, send):
    send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(300):
        send(b"100000\r\n" + bytes(MEGABYTE) + b"\r\n")


def _says(body, *headers, **options):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda _, send: send(reply(data, *headers, **options))


def _of(picture):
    """A reply that is right in the form of each backend, but for what it holds."""
    data = base64.b64encode(picture).decode()
    choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
    return {"images": [data], "data": [{"b64_json": data}], "choices": [choice], "object": "chat.completion"}


# What a server does with a request.
SERVERS = {
    "resets": _resets,
    "closes": lambda _, send: None,
    "stalls": lambda _, send: time.sleep(1),
    "stalls within its head": lambda _, send: (send(HEAD), time.sleep(1)),
    "drips": _drips,
    "never ends": _never_ends,
    "is no web server": lambda _, send: send(b"220 mail.example ESMTP\r\n"),
    "sends garbage": lambda _, send: send(bytes(range(256)) * 99),
    "redirects": _says(b"", "Location: http://127.0.0.1:1/stolen", status="302 Found"),
    "redirects to a file": _says(b"", "Location: file:///etc/passwd", status="307 Temporary Redirect"),
    "echoes": lambda request, send: send(reply(request[:3000], status="400 Bad Request", kind="text/plain")),
    "sends a web page": _says(b"<!doctype html><title>Welcome</title>", kind="text/html"),
    "sends nothing": _says(b""),
    "sends nonsense of the right kind": _says(b"{]"),
    "nests deeply": _says(b"[" * 100_000),
    "sends a number": _says(7),
    "sends null": _says(None),
    "sends a list": _says([1, {"images": 3}]),
    "sends an empty object": _says({}),
    "sends wrong types": _says({"images": {"a": 1}, "choices": {"message": 7}, "data": "words"}),
    "sends lists of wrong types": _says({"images": [7], "choices": [7], "data": [7]}),
    "sends an answer without words": _says(_of(b"not a picture")),
    "sends a picture of a gigapixel": _says(_of(png_header(40_000, 40_000))),
    "sends a bomb": _says(PACKED, "Content-Encoding: gzip"),
    "sends an unknown encoding": _says(b"abc", "Content-Encoding: br"),
    "lies about its length": lambda _, send: send(HEAD + b"Content-Length: 9999999999999\r\n\r\n{}"),
    "has a negative length": lambda _, send: send(HEAD + b"Content-Length: -1\r\n\r\n{}"),
    "has endless headers": lambda _, send: [send(HEAD), *(send(b"A: b\r\n" * 999) for _ in range(999))],
    "is out of order": _says({"detail": "CUDA out of memory"}, status="500 Internal Server Error"),
    "is overloaded": _says({"error": "later"}, "Retry-After: 999999999", status="503 Service Unavailable"),
    "refuses": _says({"error": {"message": "no"}}, status="403 Forbidden"),
    "knows nothing": _says({"detail": "Not Found"}, status="404 Not Found"),
    "has a status of its own": _says({}, status="799 Odd"),
}


@pytest.fixture(autouse=True)
def _secrets(monkeypatch):
    monkeypatch.setattr(augment.models.calling, "_FIRST_PAUSE", 0.01)
    monkeypatch.setenv(KEY, SECRET)
    monkeypatch.setenv(AUTH, f"me:{SECRET}")


def ask(backend, url):
    """What came of it, in a thread that is given half a minute."""
    found = []

    def run():
        try:
            found.extend(backend(url))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert found, "it waits for ever"
    return found


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_server_that_misbehaves_costs_an_item_or_ends_the_work_in_one_sentence(backend, server):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with RawServer(SERVERS[server]) as running:
        (found,) = ask(BACKENDS[backend], running.url)
        assert len(running.requests) <= 6  # a refused setting is left out, one after another
    if backend == "refine.openai" and isinstance(found, Prompt):
        assert found.origin.startswith("template")  # which takes the place of an answer that is none
        return
    assert isinstance(found, ItemFailed | UnavailableError), repr(found)
    said = str(found)
    assert "\n" not in said
    assert 10 < len(said) < 700
    assert SECRET not in said
    assert base64.b64encode(f"me:{SECRET}".encode()).decode() not in said
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 200  # MB


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_no_server_is_nothing_waits(backend):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    (found,) = ask(BACKENDS[backend], url)
    assert isinstance(found, ItemFailed | UnavailableError)
    assert "no server answers there" in str(found)
