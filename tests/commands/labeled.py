"""Labeled data sets of the filled cache's scenes, and what is to be seen in their composites."""

import cv2
import numpy as np
import PIL.Image

from augment.testing.pictures import scene

SIZE = (96, 112)


def disc(pixels):
    """Where a picture shows the red disc of a scene, `(H, W)` bool."""
    pixels = np.asarray(pixels).astype(int)
    red = ((pixels[..., 0] - pixels[..., 1] > 55) & (pixels[..., 0] - pixels[..., 2] > 55)).astype(np.uint8)
    return cv2.morphologyEx(red, cv2.MORPH_OPEN, np.ones((5, 5))) > 0


def box_of(mask):
    """Left, top, right, bottom of a mask."""
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], float)


def true_box(number):
    """The box of a scene's disc."""
    return box_of(scene(number)[1] >= 128)


def contour(number):
    """A polygon around a scene's disc, `(n, 2)` x, y at pixels' corners."""
    mask = (scene(number)[1] >= 128).astype(np.uint8)
    (points,), _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return points[:, 0] + 0.5


def place(paths, root, names):
    """Put the scenes at these names below a folder, in order."""
    numbers = []
    for path, name in zip(sorted(paths, key=lambda path: path.name), names, strict=False):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        numbers.append(int(path.stem))
    return numbers


def seen_box(path):
    """The box of the disc in a composite."""
    with PIL.Image.open(path) as file:
        return box_of(disc(file.convert("RGB")))


def yolo(paths, root):
    """Six scenes for training and two for validation, with boxes; an image of the cache without any object."""
    names = [f"images/{'train' if n < 6 else 'val'}/{n}.png" for n in range(8)]
    for number in place(paths, root, names):
        left, top, right, bottom = true_box(number) / (112, 96, 112, 96)
        words = (number % 3, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
        label = root / names[number].replace("images", "labels").replace(".png", ".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(" ".join(f"{word:.6g}" for word in words) + "\n")
    (root / "data.yaml").write_text(
        f"path: {root}  # where it is\ntrain: images/train\nval: images/val\nnames: [cup, ball, pen]\n"
    )
    return root
