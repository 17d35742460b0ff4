"""Inpainting networks in ONNX with LaMa's inputs, run by OpenCV."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.artifacts import Image
from augment.errors import UnavailableError


class InpaintingNetwork:
    """A network that takes "image" and "mask" and gives the image with its hole filled. Calls from several threads take
    turns. `size` is the side in pixels of both. Raises UnavailableError if OpenCV cannot load or run it."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size, self._turn = path, size, threading.Lock()
        try:
            self._network = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise UnavailableError(f"{path}: OpenCV cannot load it: {_first_line(error)}") from error
        # Exports differ in whether they give 0 to 1 or 0 to 255; a white image with a speck of a hole tells.
        mask = np.zeros((size, size), bool)
        mask[size // 2, size // 2] = True
        white = self._run(np.full((size, size, 3), 255, np.uint8), mask)
        self._scale = 255.0 if float(white.mean()) < 2 else 1.0

    def fill(self, image: Image, hole: NDArray[np.bool_]) -> Image:
        """`(size, size, 3)` uint8 RGB and `(size, size)` bool to the filled image."""
        filled = self._run(image, hole) * self._scale
        return np.ascontiguousarray(filled.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0))

    def _run(self, image: Image, hole: NDArray[np.bool_]) -> NDArray[np.float32]:
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / 255
        with self._turn:
            try:
                self._network.setInput(pixels, "image")
                self._network.setInput(hole[None, None].astype(np.float32), "mask")
                filled = np.asarray(self._network.forward(), np.float32)
            except cv2.error as error:
                raise UnavailableError(
                    f'{self._path}: it does not take "image" and "mask" of {self._size}x{self._size}: '
                    f"{_first_line(error)}; set inpaint.size to the side of its inputs"
                ) from error
        if filled.shape != (1, 3, self._size, self._size):
            raise UnavailableError(f"{self._path}: it gives {filled.shape}, not one image of {self._size}x{self._size}")
        planes: NDArray[np.float32] = filled[0]
        return planes


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
