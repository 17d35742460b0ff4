"""Small synthetic images with known contents."""

from pathlib import Path

import cv2
import numpy as np
import PIL.Image


def scene(seed: int, size: tuple[int, int] = (96, 112)) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 of a saturated disc in front of sky and textured ground, and its matte (H, W) uint8."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = np.empty((height, width, 3), np.float32)
    image[:] = np.linspace((170, 200, 235), (205, 215, 225), height, dtype=np.float32)[:, None]
    horizon = height // 2 + int(rng.integers(-6, 7))
    ground = cv2.GaussianBlur(rng.normal(0, 60, (height - horizon, width, 1)).astype(np.float32), (0, 0), 1.2)
    image[horizon:] = np.array([90, 120, 60], np.float32) + ground[..., None]
    center = (width // 2 + int(rng.integers(-10, 11)), height // 2 + int(rng.integers(-4, 5)))
    matte = cv2.circle(np.zeros((height * 4, width * 4), np.uint8), tuple(4 * c for c in center), height, 255, -1)
    matte = cv2.resize(matte, (width, height), interpolation=cv2.INTER_AREA)
    weight = matte[..., None] / np.float32(255)
    image = image * (1 - weight) + np.array([220, 40 + 20 * (seed % 5), 30], np.float32) * weight
    return image.round().clip(0, 255).astype(np.uint8), matte


def write_folder(folder: Path, count: int, classes: tuple[str, ...] = ("cup", "ball")) -> list[Path]:
    """Write `count` PNG scenes into class folders; returns their paths, sorted as `augment.prewarm` sorts them."""
    paths = []
    for number in range(count):
        path = folder / classes[number % len(classes)] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(scene(number)[0]).save(path)
        paths.append(path)
    return sorted(paths)
