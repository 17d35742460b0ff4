"""The bounded HTTP client against servers that redirect, drip, bomb, break off and echo, and proxies."""

from __future__ import annotations

import base64
import gzip
import json
import resource
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from augment.artifacts import encode_image
from augment.errors import CorruptEntry, ItemFailed, RecipeError, UnavailableError
from augment.models.calling import NoServer, PassingFault
from augment.models.http import MEGABYTE, Reply, Server, check_address
from augment.models.pictures import decode_bounded
from tests.raw_server import RawServer, reply


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_redirect_is_not_followed_and_the_other_host_hears_nothing() -> None:
    with (
        RawServer(lambda _, send: send(reply(b"{}"))) as other,
        RawServer(
            lambda _, send: send(reply(b"", f"Location: {other.url}/stolen", status="307 Temporary Redirect"))
        ) as server,
        pytest.raises(UnavailableError, match=r"it redirects \(HTTP 307\) to http.*/stolen, .*set base_url"),
    ):
        Server(server.url, {"Authorization": "Bearer secret"}).post("/v1", {"prompt": "mine"}, 5)
    assert not other.requests


def _drip_body(_: bytes, send: object) -> None:
    send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        send(b" ")
        time.sleep(0.05)


def _drip_head(_: bytes, send: object) -> None:
    send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(100):
        send(b"a")
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [_drip_body, _drip_head])
def test_a_dripping_server_meets_a_deadline_for_the_whole_reply(answer: object) -> None:
    with RawServer(answer) as server:
        started = time.monotonic()
        with pytest.raises(ItemFailed, match="no whole answer in 0.4 s; raise timeout"):
            Server(server.url).get("/", 0.4)
        assert time.monotonic() - started < 2


def test_a_new_request_has_a_new_deadline() -> None:
    with RawServer(lambda _, send: send(reply(b"{}"))) as server:
        client = Server(server.url)
        for _ in range(2):
            assert client.get("/", 0.5).status == 200
            time.sleep(0.6)


def _endless(_: bytes, send: object) -> None:
    send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(1000):
        send(b"100000\r\n" + b"a" * 0x100000 + b"\r\n")


def test_a_reply_without_end_is_given_up_at_its_limit() -> None:
    with RawServer(_endless) as server, pytest.raises(ItemFailed, match="larger than 2 MB; not read"):
        Server(server.url).get("/", 20, 2 * MEGABYTE)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_small_reply_that_unpacks_to_300_megabytes_takes_no_more_than_its_limit(encoding: str) -> None:
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join([packer.compress(bytes(MEGABYTE)) for _ in range(300)] + [packer.flush()])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        RawServer(lambda _, send: send(reply(bomb, f"Content-Encoding: {encoding}"))) as server,
        pytest.raises(ItemFailed, match="larger than 4 MB; not read"),
    ):
        Server(server.url).get("/", 20, 4 * MEGABYTE)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 100  # MB


def test_a_reply_that_is_compressed_without_being_asked_is_read() -> None:
    body = gzip.compress(b'{"data": [1]}')
    with RawServer(lambda _, send: send(reply(body, "Content-Encoding: gzip"))) as server:
        assert Server(server.url).get("/", 5).json() == {"data": [1]}
        assert b"accept-encoding: identity" in server.requests[0].lower()


def test_garbage_in_place_of_http_or_gzip_is_a_fault_that_may_pass() -> None:
    for answer in (b"SSH-2.0-OpenSSH_9.2\r\n", reply(b"not gzip", "Content-Encoding: gzip"), b""):
        with (
            RawServer(lambda _, send, answer=answer: send(answer)) as server,
            pytest.raises(PassingFault, match="it broke off its reply"),
        ):
            Server(server.url).get("/", 5)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"<!doctype html><title>Welcome</title><script>x = 1</script>", r"a web page and not JSON \(Welcome\)"),
        (b"", "an empty reply"),
        (b"{", "not JSON"),
    ],
)
def test_what_is_not_json_is_said_in_one_sentence(body: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Reply(200, {}, body).json()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"error": {"message": "no such model", "param": None}}, "no such model"),
        ([{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}], 'Unknown name "seed"'),
        ({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}, "body.seed: Extra inputs"),
        ({"error": "HTTPException", "detail": "Sampler not found", "body": "", "errors": ""}, "Sampler not found"),
        ({"error": "model 'x' not found"}, "model 'x' not found"),
    ],
)
def test_the_servers_own_words_are_found_in_every_form(content: object, words: str) -> None:
    assert Reply(400, {}, json.dumps(content).encode()).words.startswith(words)


def test_loopback_is_not_sent_through_a_proxy_and_other_hosts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        RawServer(lambda _, send: send(reply(b'"proxy"'))) as proxy,
        RawServer(lambda _, send: send(reply(b'"server"'))) as server,
    ):
        for name in ("http_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://me:word%21@127.0.0.1:{proxy.port}")
        assert Server(server.url).get("/", 5).json() == "server"
        assert Server(server.url.replace("127.0.0.1", "localhost")).get("/", 5).json() == "server"
        assert Server("http://far.example").get("/v1", 5).json() == "proxy"
        assert proxy.requests[0].startswith(b"GET http://far.example/v1 ")
        assert base64.b64encode(b"me:word!") in proxy.requests[0]
        monkeypatch.setenv("no_proxy", "far.example")
        with pytest.raises(NoServer, match="far.example: no server answers there"):
            Server("http://far.example").get("/v1", 5)


def test_a_socks_proxy_without_its_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5h://user:hidden@127.0.0.1:1080")
    with pytest.raises(UnavailableError, match="ALL_PROXY is a SOCKS proxy, .*: pip install socksio") as caught:
        Server("https://far.example/v1")
    assert "hidden" not in str(caught.value)
    Server("http://127.0.0.1:1/v1")  # needs no proxy


@pytest.mark.parametrize(
    "address",
    [
        "http://user:pass-word@host/v1",
        "http://host/v1?key=pass-word",
        "ftp://user:pass-word@host",
        "http://u:pass-word@[x",
    ],
)
def test_an_address_with_a_secret_is_refused_without_quoting_it(address: str) -> None:
    with pytest.raises(RecipeError, match="base_url: ") as caught:
        check_address("base_url", address)
    assert "pass-word" not in str(caught.value)


def test_secrets_are_hidden_in_every_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdef123\n")
    monkeypatch.setenv("AUGMENT_WEBUI_AUTH", "me:open sesame")
    basic = base64.b64encode(b"me:open sesame").decode()
    for text in ("Bearer sk-abcdef123", f"Basic {basic}", "'open sesame'", "at http://u:p@host/x", "http://token@host"):
        hidden = str(ItemFailed(f"echo: {text} end"))
        assert hidden.startswith("echo: ")
        assert hidden.endswith(" end")
        assert "***" in hidden
        assert not any(secret in hidden for secret in ("abcdef", "sesame", basic, "u:p", "token@"))
    assert str(ItemFailed("mail me@example.org about http://host/a@b")) == "mail me@example.org about http://host/a@b"


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_a_small_file_of_a_huge_picture_is_not_decoded() -> None:
    for side in (30_000, 2**31 - 1):
        with pytest.raises(CorruptEntry, match="more than 1 megapixels; not decoded"):
            decode_bounded(png_header(side, side), 1_000_000)
    for data in (b"", b"hello", b"AUGR" + bytes(40)):
        with pytest.raises(CorruptEntry, match="not a PNG, JPEG or WebP image"):
            decode_bounded(data, 1_000_000)
    image = np.zeros((4, 6, 3), np.uint8)
    assert decode_bounded(encode_image(image, "png"), 24).shape == (4, 6, 3)


def test_many_threads_share_one_server_each_with_its_own_deadline() -> None:
    def answer(request: bytes, send: object) -> None:
        time.sleep(0.6 if b"/slow" in request else 0)
        send(reply(b"{}"))

    results: dict[str, object] = {}

    def ask(path: str, seconds: float) -> None:
        try:
            results[path] = client.get(path, seconds).status
        except ItemFailed as error:
            results[path] = str(error)

    with RawServer(answer) as server:
        client = Server(server.url, connections=3)
        threads = [threading.Thread(target=ask, args=one) for one in (("/slow", 0.2), ("/slow-but", 5), ("/fast", 0.2))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "no whole answer in 0.2 s" in str(results["/slow"])
    assert results["/slow-but"] == results["/fast"] == 200


def test_importing_the_client_imports_no_http_library() -> None:
    code = "import sys, augment.models.http; assert not {'httpcore', 'httpx', 'openai'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
