"""Saliency networks in ONNX, run by OpenCV: nothing else has to be installed."""

from __future__ import annotations

import hashlib
import os
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Image
from augment.errors import UnavailableError
from augment.models.saliency import as_probability, confidence, is_flat
from augment.models.weights import PROBE_SECONDS, Weights

Channels: TypeAlias = tuple[float, float, float]  # red, green, blue

_RELEASE = "https://github.com/danielgatis/rembg/releases/download/v0.0.0/"
_STALLED = 60.0  # seconds without a byte, after which a download is given up


@dataclass(frozen=True)
class Release:
    """Where a network's file is published, and what it must be: its length in bytes, and its SHA-256."""

    url: str
    nbytes: int
    sha256: str


# U²-Net (Qin et al. 2020, Apache-2.0), its small version, as rembg publishes it.
KNOWN = {
    "u2netp": Release(
        f"{_RELEASE}u2netp.onnx",
        4_574_861,
        "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
    ),
}


@dataclass(frozen=True)
class OnnxWeights(Weights):
    """The ONNX file of one of `KNOWN`, or a local ONNX file.

    Downloads are kept in `augment/` in the user's cache folder. A file there whose hash is wrong counts as missing.
    """

    model: str

    def find(self) -> Path | None:
        if (local := Path(self.model).expanduser()).is_file():
            return local
        path = self._kept
        return path if path.is_file() and _sha256(path) == self.release.sha256 else None

    @property
    def release(self) -> Release:
        """Raises UnavailableError if there is none of that name."""
        if self.model not in KNOWN:
            raise UnavailableError(
                f"{self.model}: there is no such file, and it is not a network known by name: {', '.join(KNOWN)}"
            )
        return KNOWN[self.model]

    @property
    def _kept(self) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "augment" / self.release.url.rpartition("/")[2]

    def _fetch(self) -> Path:
        download(self.release, self._kept)
        return self._kept

    def _probe(self) -> None:
        request = urllib.request.Request(self.release.url, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()

    @property
    def tried(self) -> str:
        return str(self._kept)

    @property
    def command(self) -> str:
        return f"curl --create-dirs -Lo {self._kept} {self.release.url}"


def download(release: Release, path: Path) -> None:
    """Fetch the file to `path`, where it appears complete or not at all. Raises OSError, also if its hash is wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with urllib.request.urlopen(release.url, timeout=_STALLED) as answer, part.open("wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
                if file.tell() > release.nbytes:
                    raise OSError(f"{release.url} has more than its {release.nbytes} bytes")
        if (found := _sha256(part)) != release.sha256:
            raise OSError(f"{release.url} has the SHA-256 {found}, not {release.sha256}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class OnnxNetwork:
    """A network that takes one image and gives one map, 1 for the object. Calls from several threads take turns.

    `size` is its input's side in pixels. From the colors, divided by the image's brightest value, `mean` is subtracted,
    and the rest is divided by `deviation`.
    """

    def __init__(self, path: Path, size: int, mean: Channels, deviation: Channels) -> None:
        self._size = size
        self._mean, self._deviation = np.array(mean, np.float32), np.array(deviation, np.float32)
        self._turn = threading.Lock()
        try:
            self._network = cv2.dnn.readNetFromONNX(str(path))
            # The first output is the finest map; the others are coarser ones that only training looks at.
            self._output = self._network.getUnconnectedOutLayersNames()[0]
        except (cv2.error, IndexError) as error:
            raise UnavailableError(f"{path}: OpenCV cannot load it: {_reason(error)}") from error
        self._path = path

    def predict(self, image: Image) -> tuple[NDArray[np.float32], float | None]:
        """`(h, w)` float32 map of an `(H, W, 3)` uint8 RGB image, stretched to the range 0 to 1 as U²-Net's authors do
        it, and the confidence, 0 to 1; None if the map is flat.

        Raises UnavailableError if the network does not take an image of this size, or does not give a map.
        """
        pixels = cv2.resize(image, (self._size, self._size), interpolation=cv2.INTER_AREA).astype(np.float32)
        pixels = (pixels / max(1.0, float(pixels.max())) - self._mean) / self._deviation
        raw = self._run(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
        if is_flat(raw):
            return np.zeros(raw.shape, np.float32), None
        return (raw - raw.min()) / np.ptp(raw), confidence(as_probability(raw))

    def _run(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The map that the network gives, `(h, w)` float32."""
        with self._turn:
            try:
                self._network.setInput(pixels)
                raw = np.asarray(self._network.forward(self._output), np.float32)
            except cv2.error as error:
                raise UnavailableError(
                    f"{self._path}: it does not take images of {self._size}x{self._size}: {_reason(error)}; "
                    "set remove.size to the side of its input"
                ) from error
        if raw.size != raw.shape[-1] * raw.shape[-2]:
            raise UnavailableError(f"{self._path}: it gives {raw.shape}, not one map of the object")
        return raw.reshape(raw.shape[-2:])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _reason(error: Exception) -> str:
    """The most telling line: OpenCV's own begins with where in its source it is."""
    lines = str(error).strip().splitlines()
    return next((line.removeprefix("> ") for line in lines if line.startswith("> ")), lines[0] if lines else "")
