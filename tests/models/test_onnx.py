"""ONNX networks through OpenCV: where their files come from, and what becomes of one that does not fit."""

from __future__ import annotations

import hashlib
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import cv2
import numpy as np
import pytest

from augment.errors import UnavailableError
from augment.models.onnx import KNOWN, OnnxNetwork, OnnxWeights, Release

U2NET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CONTENT = bytes(range(256)) * 20


@dataclass(frozen=True)
class Published(OnnxWeights):
    """Weights with an address of their own."""

    url: str = ""
    sha256: str = hashlib.sha256(CONTENT).hexdigest()

    @property
    def release(self) -> Release:
        return Release(f"{self.url}/net.onnx", len(CONTENT), self.sha256)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, and a network that may be used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers with the parts in the list, and claims their length to be that of CONTENT."""
    parts = [CONTENT]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200 if parts else 404)
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(max(len(CONTENT), sum(map(len, parts)))))
            self.end_headers()
            for part in parts:
                self.wfile.write(part)

        def log_message(self, *args: object) -> None:
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}", parts
        listening.shutdown()


def test_weights_are_downloaded_once_and_checked(home: Path, server: tuple[str, list[bytes]]) -> None:
    url, parts = server
    weights = Published("net", url)
    assert weights.find() is None
    weights.check()
    assert not home.exists()
    path = weights.resolve()
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["net.onnx"]
    parts.clear()
    assert weights.resolve() == path


def test_a_damaged_file_is_fetched_again(home: Path, server: tuple[str, list[bytes]]) -> None:
    weights = Published("net", server[0])
    weights.resolve().write_bytes(CONTENT[:-1])
    assert weights.find() is None
    assert weights.resolve().read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(CONTENT[::-1], "SHA-256"), (CONTENT[:99], "SHA-256|IncompleteRead"), (CONTENT * 500, "more than its")],
    ids=["other", "torn", "endless"],
)
def test_a_download_that_is_not_what_was_published_is_refused_and_leaves_nothing(
    home: Path, server: tuple[str, list[bytes]], answer: bytes, reason: str
) -> None:
    url, parts = server
    parts[:] = [answer]
    with pytest.raises(UnavailableError, match=f"({reason}).*fetch it with: curl"):
        Published("net", url).resolve()
    assert not list((home / "augment").iterdir())


def test_without_a_network_it_says_where_it_looked_and_what_to_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnavailableError, match=rf"u2netp.*{home}/augment/u2netp\.onnx.*HF_HUB_OFFLINE.*github\.com"):
        OnnxWeights("u2netp").check()


def test_an_unknown_name_lists_those_that_are_known() -> None:
    with pytest.raises(UnavailableError, match=r"u3net: there is no such file.*: u2netp"):
        OnnxWeights("u3net").check()


def test_the_published_hash_is_that_of_the_real_file(u2netp: Path, home: Path) -> None:
    release = KNOWN["u2netp"]
    content = u2netp.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (release.nbytes, release.sha256)
    kept = home / "augment/u2netp.onnx"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(content)
    assert OnnxWeights("u2netp").resolve() == kept


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(b"torn")
    with pytest.raises(UnavailableError, match=r"torn\.onnx: OpenCV cannot load it"):
        OnnxNetwork(torn, 320, *U2NET)


def test_the_prediction_is_the_same_whatever_the_number_of_threads(u2netp: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    before = cv2.getNumThreads()
    found = []
    try:
        for threads in (1, 2, 3):
            cv2.setNumThreads(threads)
            found.append(OnnxNetwork(u2netp, 320, *U2NET).predict(image))
    finally:
        cv2.setNumThreads(before)
    assert all(np.array_equal(one[0], found[0][0]) for one in found)
    assert len({one[1] for one in found}) == 1


def test_it_predicts_what_onnxruntime_predicts(u2netp: Path) -> None:
    import onnxruntime

    image = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    pixels = ((image / np.float32(image.max()) - U2NET[0]) / U2NET[1]).astype(np.float32).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(str(u2netp), providers=["CPUExecutionProvider"])
    raw = session.run(None, {session.get_inputs()[0].name: pixels})[0][0, 0]
    found, _ = OnnxNetwork(u2netp, 320, *U2NET).predict(image)
    assert found == pytest.approx((raw - raw.min()) / np.ptp(raw), abs=1e-3)
